"""What the sampler makes of a transferred LoRA, against the host's own loader."""

import shutil

import pytest

from .checks import relative

pytestmark = pytest.mark.host

A, B, LORA = "emoji_a.safetensors", "emoji_b.safetensors", "emoji_style_lora.safetensors"


def test_a_to_a_is_what_the_core_loader_does(client, graph, latents):
    """The projection runs here: the shortcut for identical weights is off."""
    model = graph.checkpoint(A)
    lora = graph.transfer(graph.source(), model, copy_identical=False)
    graph.latents(graph.apply(model, lora), "a_to_a")
    graph.latents(graph.core_lora(model, LORA), "core")
    graph.latents(model, "base")
    client.queue(graph.prompt)
    assert relative(latents("base"), latents("core")) > 0.1  # without it, the picture is another
    assert relative(latents("a_to_a"), latents("core")) < 1e-4


@pytest.mark.parametrize(("dtype", "tolerance"), [("fp32", 1e-4), ("fp16", 5e-3), ("bf16", 3e-2)])
def test_saved_and_loaded_by_the_core_loader(client, comfy, graph, latents, dtype, tolerance):
    model = graph.checkpoint(B)
    lora = graph.transfer(graph.source(), model)
    graph.save(lora, f"loras/saved_{dtype}", dtype)
    graph.latents(graph.apply(model, lora), "applied")
    graph.latents(model, "base")
    client.queue(graph.prompt)

    saved = next((comfy.folder / "output" / "loras").glob(f"saved_{dtype}_*.safetensors"))
    shutil.copy(saved, comfy.folder / "models" / "loras" / f"from_disk_{dtype}.safetensors")
    again = type(graph)()
    loaded = again.core_lora(again.checkpoint(B), f"from_disk_{dtype}.safetensors")
    again.latents(loaded, "loaded")
    client.queue(again.prompt)
    assert relative(latents("base"), latents("applied")) > 0.1
    assert relative(latents("loaded"), latents("applied")) < tolerance


def test_strength_0_is_the_base_exactly(client, graph, latents):
    model = graph.checkpoint(B)
    lora = graph.transfer(graph.source(), model)
    graph.latents(graph.apply(model, lora, 0.0), "zero")
    graph.latents(model, "base")
    client.queue(graph.prompt)
    assert (latents("zero") == latents("base")).all()


@pytest.mark.parametrize("strength", [-0.7, 0.4])
def test_strengths_and_stacking_are_those_of_the_core_loader(client, graph, latents, strength):
    model = graph.checkpoint(A)
    lora = graph.transfer(graph.source(), model)  # A to A: the LoRA itself
    graph.latents(graph.apply(graph.apply(model, lora, strength), lora, 0.3), "ours")
    graph.latents(graph.core_lora(graph.core_lora(model, LORA, strength), LORA, 0.3), "core")
    graph.latents(graph.core_lora(model, LORA, 0.3), "unstacked")
    client.queue(graph.prompt)
    assert relative(latents("unstacked"), latents("core")) > 0.01
    assert relative(latents("ours"), latents("core")) < 1e-4


def test_the_model_is_reused_unchanged(client, graph, latents):
    model = graph.checkpoint(B)
    graph.latents(model, "before")
    client.queue(graph.prompt)
    lora = graph.transfer(graph.source(), model)
    graph.latents(graph.apply(model, lora), "with")
    client.queue(graph.prompt)
    again = type(graph)()
    again.latents(again.checkpoint(B), "after", names="cat,dog,apple")
    client.queue(again.prompt)
    assert relative(latents("with"), latents("before")) > 0.1
    assert (latents("after") == latents("before")).all()


def test_a_threshold_that_nothing_passes(client, comfy, graph, latents):
    model = graph.checkpoint(B)
    lora = graph.transfer(graph.source(), model, threshold=1.0)
    graph.latents(graph.apply(model, lora), "nothing")
    graph.latents(model, "base")
    done = client.queue(graph.prompt)
    assert "NOTHING WAS MOVED" in done.of(lora[0])["text"][0]
    assert "NOTHING WAS MOVED" in comfy.log_text()
    assert (latents("nothing") == latents("base")).all()


def test_the_core_nodes_take_the_lora(client, comfy, graph, latents, object_info):
    """LORA_MODEL is the host's own type where it has one (not in a host from June 2024)."""
    if "LoraModelLoader" not in object_info or "SaveLoRA" not in object_info:
        pytest.skip("this host has no LORA_MODEL nodes of its own")
    model = graph.checkpoint(B)
    lora = graph.transfer(graph.source(), model)
    graph.latents(graph.apply(model, lora), "applied")
    core = graph.node("LoraModelLoader", model=model, lora=lora, strength_model=1.0, bypass=False)
    graph.latents(core, "core")
    graph.node("SaveLoRA", lora=lora, prefix="loras/by_the_core_node")
    client.queue(graph.prompt)
    assert (latents("core") == latents("applied")).all()
    assert list((comfy.folder / "output" / "loras").glob("by_the_core_node_*.safetensors"))
