"""Architectures that share nothing but names: ComfyUI's aliases may mean another module there."""

import pytest

from .checks import fails
from .prompts import PromptBuilder
from .small.architectures import ARCHITECTURES
from .small.files import skip_unless_it_loads, write_small_files

pytestmark = pytest.mark.host

# In each, LoRA names of the first model are those of modules of the second, of other widths or not.
STRANGERS = [
    ("flux", "ltxv"),
    ("flux", "sd3"),
    ("flux", "lens"),
    ("lens", "flux"),
    ("lens", "flux2"),
    ("lens", "sd3"),
    ("ltxv", "flux"),
    ("ltxv", "flux2"),
    ("ltxv", "sd3"),
]


@pytest.mark.parametrize(("source", "target"), STRANGERS)
def test_strangers_are_refused_in_one_sentence(client, comfy, source, target):
    for name in (source, target):
        skip_unless_it_loads(ARCHITECTURES[name], client)
    ours, theirs = (write_small_files(name, comfy.folder / "models") for name in (source, target))
    for settings in ({}, {"mode": "copy"}, {"mode": "cross_width", "threshold": 0.0}):
        graph = PromptBuilder()
        loaded = graph.source(ours.lora, source_checkpoint=ours.parent)
        moved = graph.transfer(loaded, theirs.load(graph, theirs.parent), **settings)
        graph.save(moved, "strangers")
        begin = f"The LoRA {ours.lora} cannot be moved from {ours.parent} ("
        fails(client, graph, moved, begin, f") to {theirs.parent} (", "no blocks in common.")
