"""Gradients through a model that a prompt has loaded, under inference mode."""

import json

import numpy as np
import pytest

from .prompts import PromptBuilder
from .quantised_files import ALWAYS, FORMS, NAMES, SINCE_2025, write_quantised
from .small.architectures import ARCHITECTURES
from .small.files import skip_unless_it_loads, write_small_files

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
LAYERS = (
    "diffusion_model.joint_blocks.0.x_block.attn.qkv.weight",
    "diffusion_model.joint_blocks.1.context_block.mlp.fc1.weight",
    "diffusion_model.context_embedder.weight",
)


def gradient(graph: PromptBuilder, model: list, layer: str = LAYERS[0]) -> list:
    text = graph.node("EmojiPrompt", names="cat, dog")
    return graph.node("ProbeGradient", model=model, positive=text, layer=layer)


def check(figures: dict) -> None:
    assert "refused" not in figures, figures
    assert figures["finite"]
    assert min(figures["norms"].values()) > 0
    assert figures["fired"] == 1
    assert figures["blocks"] == 1
    assert figures["forgetful"] < 1e-4
    assert figures["restored"]
    assert figures["with gradients"] == figures["left over"] == 0


@pytest.mark.parametrize("layer", LAYERS)
def test_a_lora_beside_a_layer(client, graph, layer):
    """The gradient is the slope that the loss has, measured by two small steps."""
    probe = gradient(graph, graph.checkpoint(A), layer)
    figures = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    check(figures)
    assert figures["measured"] == pytest.approx(figures["slope"], rel=0.02)


def test_the_model_samples_as_before(client, graph, latents):
    model = graph.checkpoint(A)
    graph.latents(model, "before_gradients")
    client.queue(graph.prompt)
    probe = gradient(graph, model)
    check(json.loads(client.queue(graph.prompt).of(probe[0])["text"][0]))
    again = PromptBuilder()
    again.latents(again.checkpoint(A), "after_gradients", names="cat,dog,apple")
    client.queue(again.prompt)
    assert (latents("after_gradients") == latents("before_gradients")).all()


def test_a_patched_model(client, graph, latents):
    """The host writes the LoRA into the weights, and takes it out again for the next prompt."""
    model = graph.checkpoint(A)
    graph.latents(model, "before_patched")
    client.queue(graph.prompt)
    patched = PromptBuilder()
    lora = patched.core_lora(patched.checkpoint(A), "emoji_style_lora.safetensors")
    probe = gradient(patched, lora)
    check(json.loads(client.queue(patched.prompt).of(probe[0])["text"][0]))
    again = PromptBuilder()
    again.latents(again.checkpoint(A), "after_patched", names="cat,dog,apple")
    client.queue(again.prompt)
    assert (latents("after_patched") == latents("before_patched")).all()


@pytest.mark.parametrize("layer", LAYERS)
def test_weights_that_are_cast_when_they_are_used(client, graph, layer):
    """They are computed anew for the gradient, and not kept until then."""
    cast, true = (
        graph.node("ProbeCast", model=graph.checkpoint(A), in_float16=half)
        for half in (True, False)
    )
    probes = [gradient(graph, model, layer) for model in (cast, true)]
    done = client.queue(graph.prompt)
    found, expected = (json.loads(done.of(probe[0])["text"][0]) for probe in probes)
    for figures in (found, expected):
        check(figures)
    assert found["casts"] > 20 > expected["casts"] == 0
    assert found["kept"] < 0.6 * expected["kept"]
    assert alike(found, expected) > 1 - 1e-6
    assert found["measured"] == pytest.approx(found["slope"], rel=0.02)


@pytest.mark.parametrize("form", FORMS)
def test_quantised_weights(client, comfy, graph, object_info, form):
    """The gradient is that of the true values, but for what a host rounds while it computes."""
    forms = PromptBuilder()
    probe = forms.node("ProbeForms")
    known = json.loads(client.queue(forms.prompt).of(probe[0])["text"][0])
    since_2025 = SINCE_2025 if "LoraSave" in object_info else ()
    if form not in {*ALWAYS, *since_2025, *(form for form, name in NAMES.items() if name in known)}:
        pytest.skip("this host does not know this form: it takes the stored numbers for weights")
    names = write_quantised(form, B, comfy.folder / "models" / "checkpoints")
    probes = [gradient(graph, graph.checkpoint(name)) for name in (*names, A)]
    done = client.queue(graph.prompt)
    quantised, true, other = (json.loads(done.of(probe[0])["text"][0]) for probe in probes)
    check(quantised)
    assert alike(other, true) < 0.9
    assert alike(quantised, true) > 0.99


def alike(one: dict, other: dict) -> float:
    a, b = (np.array(figures["gradient"]) for figures in (one, other))
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture(client, comfy, graph, name):
    """At small widths, by the slope of the loss."""
    skip_unless_it_loads(ARCHITECTURES[name], client)
    small = write_small_files(name, comfy.folder / "models")
    if not small.model.computes:
        pytest.skip("at this width, it does not compute in any host")
    model = small.load(graph, small.child)
    text = graph.node("ProbeConditioning", context=small.model.context, pooled=small.model.pooled)
    probe = graph.node("ProbeGradient", model=model, positive=text, layer="")
    figures = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    check(figures)
    assert figures["measured"] == pytest.approx(figures["slope"], rel=0.05)
