"""Load LoRA for Model: the same as load, transfer and apply, in one node."""

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from .checks import fails, relative
from .prompts import PromptBuilder, out
from .sd15_prompt import SD15Prompt
from .small_sd15 import LORA as SD15_LORA
from .small_sd15 import SOURCE, TARGET

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
LORA = "emoji_style_lora.safetensors"
BESIDE = "(the recording beside the LoRA)"
TAKEN = "taken from the cache: "
RECORDING = "recorded.recording.safetensors"


def said(client, graph: PromptBuilder, *nodes: list) -> list[str]:
    client.free()  # a node that is cached says nothing
    done = client.queue(graph.prompt)
    return [done.of(node[0])["text"][0] for node in nodes]


def test_it_is_the_three_nodes(client, graph, latents):
    model = graph.checkpoint(B)
    chosen = {"threshold": 0.7, "mode": "full"}
    one = graph.load_for_model(model, LORA, strength_model=0.8, cache_gb=0, **chosen)
    lora = graph.transfer(graph.source(), model, **chosen)
    graph.latents(one, "one_node")
    graph.latents(graph.apply(model, lora, 0.8), "three_nodes")
    graph.latents(graph.core_lora(model, LORA, 0.8), "plain")
    graph.latents(model, "without")
    graph.node("ProbeText", text=out(one, 2))
    summary, of_three = said(client, graph, one, lora)
    assert summary == of_three
    assert relative(latents("without"), latents("three_nodes")) > 0.1
    assert relative(latents("plain"), latents("three_nodes")) > 0.01
    assert np.array_equal(latents("one_node"), latents("three_nodes"))


def test_by_weights_alone_it_is_the_lora_as_it_is(client, graph, latents):
    """Between checkpoints that line up: what the core's loader makes of the file."""
    model = graph.checkpoint(B)
    one = graph.load_for_model(model, LORA, cache_gb=0)
    full = graph.load_for_model(model, LORA, cache_gb=0, mode="full")
    loaded = graph.core_lora(model, LORA)
    for made, prefix in ((one, "alike"), (full, "projected"), (loaded, "as_it_is")):
        graph.latents(made, prefix)
    (summary,) = said(client, graph, one)
    assert "mode alike" in summary and "21 moved; similarity: 0." in summary
    assert relative(latents("projected"), latents("as_it_is")) > 0.01
    assert relative(latents("alike"), latents("as_it_is")) < 1e-5


def test_the_text_encoder_moves_too(client, sd15, latents):
    graph = SD15Prompt()
    model = graph.checkpoint(TARGET)
    clip = out(model, 1)
    chosen = {"clip": clip, "source_checkpoint": SOURCE, "mode": "full"}
    ours = graph.load_for_model(model, SD15_LORA, **chosen)
    lora = graph.transfer(graph.source(), model, clip=clip)
    three = graph.apply(model, lora, clip=clip)
    without = graph.load_for_model(model, SD15_LORA, source_checkpoint=SOURCE, strength_model=0.0)
    for pair, prefix in ((ours, "one_node_sd15"), (three, "three_nodes_sd15")):
        graph.latents(pair, out(pair, 1), prefix)
    graph.latents(without, clip, "without_sd15")
    summary, nothing = said(client, graph, ours, without)
    assert "0 skipped" not in summary and "transferred" in summary
    assert "Both strengths are 0" in nothing
    assert relative(latents("without_sd15"), latents("three_nodes_sd15")) > 1e-3
    assert relative(latents("one_node_sd15"), latents("three_nodes_sd15")) < 1e-6


def test_the_model_stays_as_it_is(client, graph):
    model = graph.checkpoint(B)
    before = graph.node("ProbeFingerprint", model=model)
    loaded = graph.load_for_model(before, LORA)
    lora = graph.source()
    after = graph.node("ProbeFingerprint", model=model, after=graph.transfer(lora, loaded))
    one, other = said(client, graph, before, after)
    assert one == other


def test_a_lora_that_patches_the_model_stays_and_does_not_count(client, graph, latents):
    model = graph.checkpoint(B)
    patched = graph.core_lora(model, LORA, 0.5)
    one = graph.load_for_model(patched, LORA, cache_gb=0, mode="full")
    graph.latents(one, "on_patched")
    graph.latents(graph.apply(patched, graph.transfer(graph.source(), model)), "on_patched_three")
    graph.latents(graph.load_for_model(model, LORA, cache_gb=0, mode="full"), "on_bare")
    client.queue(graph.prompt)
    assert relative(latents("on_bare"), latents("on_patched_three")) > 0.01
    assert np.array_equal(latents("on_patched"), latents("on_patched_three"))


@pytest.fixture(scope="module")
def recorded(client, comfy) -> str:
    """A LoRA with its recording beside it."""
    loras = comfy.folder / "models" / "loras"
    shutil.copy(loras / LORA, loras / "recorded.safetensors")
    graph = PromptBuilder()
    source = graph.source("recorded.safetensors")
    recording = graph.record(source, graph.checkpoint(A))
    prefix = "recordings/beside"
    graph.node("ProLoRASaveRecording", recording=recording, filename_prefix=prefix)
    client.queue(graph.prompt)
    (made,) = (comfy.folder / "output" / "recordings").glob("beside_*")
    shutil.copy(made, loras / RECORDING)
    return "recorded.safetensors"


def test_a_recording_beside_is_used(client, graph, latents, recorded):
    model = graph.checkpoint(B)
    recording = graph.node("ProLoRALoadRecording", recording_name=f"loras/{RECORDING}")
    lora = graph.transfer(graph.source(recorded), model, mode="auto", recording=recording)
    listening = graph.load_for_model(model, recorded)
    full = graph.load_for_model(model, recorded, mode="full")
    alone = graph.load_for_model(model, recorded, source_checkpoint=BESIDE)
    graph.latents(graph.apply(model, lora), "three_calibrated")
    for one, prefix in ((listening, "calibrated"), (full, "by_weights"), (alone, "alone")):
        graph.latents(one, prefix)
    texts = said(client, graph, listening, full, alone)
    assert [f"by the recording beside it, {RECORDING}" in text for text in texts] == [1, 0, 1]
    assert "calibrated by " in texts[0] and "calibrated by " not in texts[1]
    assert relative(latents("by_weights"), latents("three_calibrated")) > 1e-3
    assert np.array_equal(latents("calibrated"), latents("three_calibrated"))
    assert relative(latents("alone"), latents("three_calibrated")) < 0.1


def test_a_recording_that_does_not_fit_is_told(client, comfy, graph, latents, recorded):
    """It is of another LoRA: by itself it is told and left, if it was asked for it is refused."""
    loras = comfy.folder / "models" / "loras"
    shutil.copy(loras / RECORDING, loras / "foreign.recording.safetensors")
    halved = {key: tensor / 2 for key, tensor in load_file(loras / LORA).items()}
    save_file(halved, loras / "foreign.safetensors")
    model = graph.checkpoint(B)
    auto = graph.load_for_model(model, "foreign.safetensors")
    alike = graph.load_for_model(model, "foreign.safetensors", mode="alike")
    graph.latents(auto, "foreign_auto")
    graph.latents(alike, "foreign_alike")
    (summary, _) = said(client, graph, auto, alike)
    assert "foreign.recording.safetensors, beside the LoRA, was not used" in summary
    assert "of another LoRA" in summary
    assert np.array_equal(latents("foreign_auto"), latents("foreign_alike"))
    for asked in ({"mode": "calibrated"}, {"source_checkpoint": BESIDE}):
        again = PromptBuilder()
        node = again.load_for_model(again.checkpoint(B), "foreign.safetensors", **asked)
        again.latents(node, "refused")
        fails(client, again, node, "foreign.recording.safetensors, beside the LoRA", "another LoRA")


def test_a_recording_that_is_not_there(client, graph):
    node = graph.load_for_model(graph.checkpoint(B), LORA, source_checkpoint=BESIDE)
    graph.latents(node, "refused")
    fails(client, graph, node, "no emoji_style_lora.recording.safetensors beside", "Put it there")


def test_auto(client, comfy, graph, latents, recorded):
    """The file that the LoRA names; where it names none, the recording beside it."""
    loras = comfy.folder / "models" / "loras"
    save_file(load_file(loras / LORA), loras / "named.safetensors", {"ss_sd_model_name": A})
    save_file(load_file(loras / LORA), loras / "nameless.safetensors")
    model = graph.checkpoint(B)
    by_name = graph.load_for_model(model, "named.safetensors", source_checkpoint="auto")
    chosen = graph.load_for_model(model, "named.safetensors")
    graph.latents(by_name, "auto")
    graph.latents(chosen, "chosen")
    text, of_chosen = said(client, graph, by_name, chosen)
    assert A in text and "transferred" in text
    assert (TAKEN in text) != (TAKEN in of_chosen)  # it is the same job, whichever comes first
    assert np.array_equal(latents("auto"), latents("chosen"))
    again = PromptBuilder()
    alone = again.load_for_model(again.checkpoint(B), recorded, source_checkpoint="auto")
    again.latents(alone, "auto_recorded")
    (text,) = said(client, again, alone)
    assert f"by the recording beside it, {RECORDING}" in text
    refused = PromptBuilder()
    inputs = {"source_checkpoint": "auto"}
    node = refused.load_for_model(refused.checkpoint(B), "nameless.safetensors", **inputs)
    refused.latents(node, "refused")
    fails(client, refused, node, "nameless.safetensors does not say which checkpoint")
