"""Models that run for the pack: what they predict, their layers, prompts, and latents of them."""

import json

import numpy as np
import pytest
import torch

from comfy_harness.hosts import PACK_ROOT
from demo.emoji.prompt import encode_names

from .checks import relative
from .prompts import PromptBuilder, out
from .small_sd15 import SOURCE as SD15

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
NAMES = ["cat", "dog", "apple"]
SIGMAS = torch.tensor([0.9, 0.6, 0.2])


def emoji(graph: PromptBuilder) -> list:
    return graph.node("EmojiPrompt", names=", ".join(NAMES))


def found(client, graph: PromptBuilder, probe: list) -> dict:
    return json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])


@pytest.fixture
def plain_torch() -> torch.Tensor:
    """What emoji_a predicts in plain torch, without the host's loader, samplers or conditioning."""
    from demo.training.model import load_model  # chooses the device of this process

    x = torch.randn(3, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    context, pooled = encode_names(NAMES)
    model = load_model(PACK_ROOT / "demo" / "models" / A)
    with torch.no_grad():
        velocity = model(x, SIGMAS * 1000, context=context, y=pooled)
    return x - SIGMAS.view(-1, 1, 1, 1) * velocity


def test_denoise_is_the_models_prediction(client, graph, plain_torch):
    one, other = (
        graph.node("ProbeDenoised", model=graph.checkpoint(name), positive=emoji(graph))
        for name in (A, B)
    )
    done = client.queue(graph.prompt)
    of_a, of_b = (json.loads(done.of(probe[0])["text"][0]) for probe in (one, other))
    ours, another = (np.array(of["denoised"]) for of in (of_a, of_b))
    assert relative(another, plain_torch.numpy()) > 0.05
    assert relative(ours, plain_torch.numpy()) < 1e-4
    assert of_a["by the host"] < 1e-5
    assert of_a["type"] == "torch.float32"


def test_prompts_run_as_one_batch(client, graph):
    probe = graph.node("ProbeDenoised", model=graph.checkpoint(A), positive=emoji(graph))
    figures = found(client, graph, probe)
    assert figures["batches"] == 1
    assert figures["one by one"] < 1e-5
    same, shorter = figures["of other lengths"]
    assert same < 1e-5
    assert shorter > 1e-3  # it is another text


def test_the_scale_of_the_output_and_the_noise(client, graph):
    """SD3 predicts velocity: x0 = x - sigma v, and x = sigma noise + (1 - sigma) x0."""
    probe = graph.node("ProbeDenoised", model=graph.checkpoint(A), positive=emoji(graph))
    figures = found(client, graph, probe)
    sigmas = SIGMAS.numpy()
    assert np.allclose(figures["output scale"], sigmas, atol=1e-6)
    expected = sigmas * np.array(figures["noise"]) + (1 - sigmas)
    assert np.allclose(figures["noised"], expected, atol=1e-6)


def test_text_of_another_model_is_refused(client, graph):
    wrong = graph.node("ProbeConditioning", context=32, pooled=64)
    model = graph.checkpoint(A)
    probe = graph.node("ProbeWrongText", model=model, positive=wrong, broken=False)
    refused = found(client, graph, probe)["refused"]
    assert "SD3 cannot take this conditioning" in refused
    assert "cross_attn 1 x 4 x 32" in refused
    assert "Record with" in refused


def test_a_broken_prediction_is_refused(client, graph):
    model = graph.checkpoint(A)
    probe = graph.node("ProbeWrongText", model=model, positive=emoji(graph), broken=True)
    assert "NaN or infinite values at sigma 0.5" in found(client, graph, probe)["refused"]


def test_prompts_and_back(client, graph):
    probe = graph.node("ProbeConditions", model=graph.checkpoint(A), positive=emoji(graph))
    figures = found(client, graph, probe)
    assert figures["count"] == 4
    assert figures["same"]
    assert figures["texts"] == ["a cat"] * 3 + [""]
    assert figures["values"] == [{"guidance": 3.5}] * 3 + [{"width": 8}]
    assert figures["shapes"] == [[1, 4, 64], [1, 64]]
    accepted = {key for key, why in figures["refused"].items() if not why}
    assert accepted == {"end_percent", "strength"}
    for key, why in figures["refused"].items():
        assert not why or (repr(key) in why and "text encoder" in why)


def test_sample_is_what_a_ksampler_makes(client, graph, latents):
    model = graph.checkpoint(A)
    graph.latents(model, "by_the_ksampler", names=", ".join(NAMES))
    graph.latents(graph.checkpoint(B), "by_another")
    empty = graph.node("EmptySD3LatentImage", width=64, height=64, batch_size=3)
    probe = graph.node("ProbeSampled", model=model, positive=emoji(graph), latent=empty)
    figures = found(client, graph, probe)
    ours = np.array(figures["latents"])
    assert relative(latents("by_another"), latents("by_the_ksampler")) > 0.1
    assert relative(ours, latents("by_the_ksampler")) < 1e-5
    assert figures["entries"] < 1e-5
    assert figures["told"] == [[3 * step, 12, "sampling"] for step in (1, 2, 3, 4)]
    assert figures["format"] == ["SD3", 16]
    assert figures["offered"] == [True, True]


def test_levels_are_spread_over_the_schedule(client, graph):
    """The demo's models have SD3's shift of 3."""
    empty = graph.node("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    inputs = {"positive": emoji(graph), "latent": empty}
    levels = found(client, graph, graph.node("ProbeSampled", model=graph.checkpoint(A), **inputs))
    part = np.linspace(1, 0, 9)
    bounds = 3 * part / (1 + 2 * part)
    for level, above, below in zip(levels["levels"], bounds[:-1], bounds[1:], strict=True):
        assert below - 1e-2 < level <= above


def test_layers_are_those_of_the_weights(client, graph):
    probe = graph.node("ProbeLayers", model=graph.checkpoint(A))
    figures = found(client, graph, probe)
    assert figures["model"] > 20
    assert figures["missing"] == figures["other shapes"] == []


def test_layers_of_a_text_encoder(client, sd15, graph):
    model = graph.checkpoint(SD15)
    figures = found(client, graph, graph.node("ProbeLayers", model=model, clip=out(model, 1)))
    assert figures["text"] > 70
    assert figures["encoded"] >= 12
    # Newer hosts make a projection up that is a bare parameter in them.
    assert all("text_projection" in key for key in figures["missing"])
    assert figures["other shapes"] == []
