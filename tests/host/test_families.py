"""Every family that the host reads: A to A, what we apply is what the host makes of the file."""

import json

import pytest
from safetensors.torch import save_file

from .family_files import FAMILIES, family_file
from .prompts import PromptBuilder, out
from .small_sd15 import LORA_MODULES, SOURCE

pytestmark = pytest.mark.host

FULL_RANK = 768  # the smaller side of the largest module
WITH_BIAS = len(LORA_MODULES) - 2  # to_q and to_k have none
NOT_IN_JUNE_2024 = {"glora", "oft", "boft", "replacement"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_to_a_is_what_the_host_makes_of_the_file(client, comfy, sd15, graph, object_info, family):
    save_file(family_file(family), comfy.folder / "models" / "loras" / f"{family}.safetensors")
    ours, core = patched(graph, f"{family}.safetensors", rank=FULL_RANK)
    weights = compare(client, graph, ours, core)
    if family in NOT_IN_JUNE_2024 and "LoraSave" not in object_info:
        assert not any(weight["change"] for weight in weights.values())
        pytest.skip("this host does not read it")
    biases = WITH_BIAS if family == "difference_with_bias" else 0
    assert len(weights) == len(LORA_MODULES) + biases
    for key, weight in weights.items():
        assert weight["change"] > 0.05, key
        assert weight["difference"] < 1e-4, key


def patched(graph: PromptBuilder, lora: str, **inputs) -> tuple[list, list]:
    """The model (and CLIP) with the transferred LoRA, and with the core loader's."""
    model = graph.checkpoint(SOURCE)
    clip = out(model, 1)
    source = graph.source(lora, source_checkpoint=SOURCE)
    moved = graph.transfer(source, model, clip=clip, copy_identical=False, threshold=0, **inputs)
    ours = graph.apply(model, moved, clip=clip)
    core = graph.node(
        "LoraLoader", model=model, clip=clip, lora_name=lora, strength_model=1.0, strength_clip=1.0
    )
    return ours, core


def compare(client, graph: PromptBuilder, ours: list, core: list) -> dict[str, dict[str, float]]:
    probe = graph.node(
        "ProbePatches", model=core, clip=out(core, 1), other_model=ours, other_clip=out(ours, 1)
    )
    return json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
