"""A LoRA for UNet and text encoder, linear and convolution, on a small SD1.5."""

import json
import math

import pytest

from fixtures.stable_diffusion import (
    file_header,
    sdxl_checkpoint,
    small_sd15_checkpoint,
)
from prolora.models.key_map import load_checkpoint

from .checks import relative
from .prompts import out
from .sd15_prompt import SD15Prompt
from .small_sd15 import LORA, LORA_MODULES, SOURCE, TARGET

pytestmark = pytest.mark.host


@pytest.fixture
def graph() -> SD15Prompt:
    return SD15Prompt()


@pytest.mark.parametrize(("strength_model", "strength_clip"), [(1, 1), (0, 1), (1, 0), (-0.5, 2)])
def test_a_to_a_is_what_the_core_loader_does(
    client, sd15, graph, latents, strength_model, strength_clip
):
    model = graph.checkpoint(SOURCE)
    clip = out(model, 1)
    strengths = {"strength_model": strength_model, "strength_clip": strength_clip}
    lora = graph.transfer(graph.source(), model, clip=clip, copy_identical=False)
    ours = graph.apply(model, lora, clip=clip, **strengths)
    core = graph.node("LoraLoader", model=model, clip=clip, lora_name=LORA, **strengths)
    for pair, prefix in ((ours, "sd15_ours"), (core, "sd15_core")):
        graph.latents(pair, out(pair, 1), prefix)
    graph.latents(model, clip, "sd15_base")
    client.queue(graph.prompt)
    assert relative(latents("sd15_base"), latents("sd15_core")) > 1e-3
    assert relative(latents("sd15_ours"), latents("sd15_core")) < 1e-4


def test_all_modules_move_with_a_clip(client, sd15, graph):
    model = graph.checkpoint(TARGET)
    source = graph.source()
    lora = graph.transfer(source, model, clip=out(model, 1))
    graph.save(lora, "loras/sd15")
    client.free()  # a node that is cached says nothing
    done = client.queue(graph.prompt)
    total = len(LORA_MODULES)
    assert f"{total} of {total} modules match" in done.of(source[0])["text"][0]
    assert f"{total} of {total} modules transferred" in done.of(lora[0])["text"][0]


def test_text_encoder_modules_stay_behind_without_a_clip(client, sd15, graph):
    lora = graph.transfer(graph.source(), graph.checkpoint(TARGET))
    graph.save(lora, "loras/sd15")
    client.free()
    summary = client.queue(graph.prompt).of(lora[0])["text"][0]
    assert "6 of 8 modules transferred" in summary
    assert "connect a CLIP to move text encoder modules" in summary


def test_pairs_of_a_clip_serve_without_it(client, sd15, graph):
    """What Similarity found with a CLIP is given to a transfer that has none."""
    model = graph.checkpoint(TARGET)
    inputs = {"source_checkpoint": SOURCE, "subspace_energy": 0.8}
    found = graph.node("ProLoRASimilarity", model=model, clip=out(model, 1), **inputs)
    said = graph.node("ProbeText", text=out(found, 2))
    lora = graph.transfer(graph.source(), model, pairs=out(found, 2))
    graph.save(lora, "loras/sd15_pairs")
    client.free()
    done = client.queue(graph.prompt)
    assert '"clip_l.transformer.' in done.of(said[0])["text"][0]
    assert "6 of 8 modules transferred" in done.of(lora[0])["text"][0]


def test_the_key_map_of_a_file_is_that_of_the_loaded_model(client, sd15, graph):
    model = graph.checkpoint(SOURCE)
    probe = graph.node("ProbeKeyMap", model=model, clip=out(model, 1), file_name=SOURCE)
    result = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    assert result["architectures"] == ["SD15", "SD15"]
    assert result["names"] > 200
    assert result["extra"] == result["different"] == []
    # SD1.5 has no text projection in its files; newer hosts make one up when they load it.
    assert all(name.endswith("text_projection") for name in result["missing"])


@pytest.mark.parametrize(
    ("name", "shapes"),
    [("sd15", small_sd15_checkpoint()), ("sdxl", sdxl_checkpoint())],
    ids=["sd15", "sdxl"],
)
def test_the_command_line_knows_what_the_host_knows(client, comfy, graph, name, shapes):
    """Full SDXL, as a file of holes: names and shapes are there, the data takes no disk."""
    path = comfy.folder / "models" / "checkpoints" / f"holes_{name}.safetensors"
    write_holes(path, shapes)
    probe = graph.node("ProbeNames", file_name=path.name)
    by_host = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    ours = {lora: str(ref) for lora, ref in load_checkpoint(path).key_map.items()}
    # Stable Cascade has a prior, and nobody trains a projection.
    known = {k: v for k, v in by_host.items() if "prior" not in k and "text_projection" not in k}
    assert len(known) > 200
    assert {lora: ours.get(lora) for lora in known} == known


def write_holes(path, shapes) -> None:
    header = file_header(shapes)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + sum(2 * math.prod(shape) for shape in shapes.values()))
