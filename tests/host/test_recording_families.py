"""Recordings of the families that are no plain LoRA: the host's loader has the last word."""

import json

import pytest
from safetensors.torch import save_file

from .checks import fails
from .family_files import FAMILIES, family_file
from .prompts import PromptBuilder, out
from .small_sd15 import SOURCE, TARGET

pytestmark = pytest.mark.host

# What becomes a LoRA, and what stays what it is, which is not refined.
REFINED = ("loha", "lokr", "oft")
KEPT = ("dora_on_outputs", "difference_with_bias")
# June 2024 has no loader for these, and gets the difference that they make.
IN_ITS_PLACE = {"oft", "boft"}
NOT_IN_JUNE_2024 = {"glora", "glora_of_old_lycoris", "replacement", *IN_ITS_PLACE}


def family(comfy, name: str) -> str:
    save_file(family_file(name), comfy.folder / "models" / "loras" / f"{name}.safetensors")
    return f"{name}.safetensors"


@pytest.mark.parametrize("name", FAMILIES)
def test_the_source_has_the_lora_as_the_host_loads_it(
    client, comfy, sd15, graph, object_info, name
):
    lora = family(comfy, name)
    if name in NOT_IN_JUNE_2024 and "LoraSave" not in object_info:
        pytest.skip("this host does not read it")
    model = graph.checkpoint(SOURCE)
    source = graph.source(lora, source_checkpoint=SOURCE)
    ours = graph.node("ProbeLoadable", source_lora=source, model=model)
    probe = graph.node("ProbePatches", model=graph.core_lora(model, lora), other_model=ours)
    weights = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    assert len(weights) >= 6
    for key, weight in weights.items():
        assert weight["change"] > 0.05, key
        assert weight["difference"] < 1e-4, key


def chain(comfy, graph: PromptBuilder, name: str) -> tuple[list, list, list]:
    """A recording, the LoRA transferred by it, and refined."""
    lora = family(comfy, name)
    model, target = graph.checkpoint(SOURCE), graph.checkpoint(TARGET)
    text = graph.node("CLIPTextEncode", clip=out(model, 1), text="a lighthouse")
    empty = graph.node("EmptyLatentImage", width=64, height=64, batch_size=1)
    source = graph.source(lora, source_checkpoint=SOURCE)
    given = {"positive": text, "latent_image": empty, "samples": 2, "steps": 1, "levels": 2}
    recording = graph.record(source, model, positions=16, **given)
    moved = graph.transfer(source, target, recording=recording, mode="auto", threshold=0.0)
    refined = graph.refine(target, moved, recording, steps=1, batch=2)
    return recording, moved, refined


@pytest.mark.parametrize("name", (*REFINED, *KEPT))
def test_recorded_transferred_and_refined(client, comfy, sd15, graph, name):
    recording, moved, refined = chain(comfy, graph, name)
    graph.save(moved if name in KEPT else refined, f"loras/of_{name}")
    client.free()
    done = client.queue(graph.prompt)
    assert "6 of 8 modules heard" in done.of(recording[0])["text"][0]
    summary = done.of(moved[0])["text"][0]
    assert "mode calibrated" in summary
    assert "by its weights" not in summary
    assert "calibrated by " in summary
    if name in REFINED:
        assert "6 of 6 modules refined, 1 steps" in done.of(refined[0])["text"][0]


@pytest.mark.parametrize("name", KEPT)
def test_what_is_not_refined(client, comfy, sd15, graph, name):
    *_, refined = chain(comfy, graph, name)
    graph.save(refined, "loras/refused")
    fails(client, graph, refined, "Nothing of this LoRA can be refined", "Apply it as it is")
