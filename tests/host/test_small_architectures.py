"""Every architecture that the host loads at small widths: from a parent to a fine-tuned child."""

import json

import numpy as np
import pytest

from .prompts import PromptBuilder
from .small.architectures import ARCHITECTURES
from .small.files import offer_saved_lora, skip_unless_it_loads, write_small_files
from .small.model import SmallModel, modules
from .small.random_weights import lora_modules

pytestmark = pytest.mark.host

COMPLAINTS = ("unet missing", "unet unexpected", "left over keys in", "lora key not loaded")


@pytest.fixture(params=ARCHITECTURES)
def small(request, client, comfy):
    skip_unless_it_loads(ARCHITECTURES[request.param], client)
    return write_small_files(request.param, comfy.folder / "models")


def test_a_lora_moves_to_a_child(client, comfy, small):
    graph, logged = PromptBuilder(), len(comfy.log_text())
    model = small.load(graph, small.child)
    source = graph.source(small.lora, source_checkpoint=small.parent)
    moved = graph.transfer(source, model)
    ours, as_it_was = graph.apply(model, moved), graph.core_lora(model, small.lora)
    graph.save(moved, f"loras/{small.prefix}")
    moved_or_not = graph.node("ProbePatches", model=ours, other_model=as_it_was)
    done = client.queue(graph.prompt)

    everything = len(lora_modules(small.model))
    summary = done.of(moved[0])["text"][0]
    assert f"{everything} of {everything} modules transferred" in summary
    assert "copied" not in summary
    weights = json.loads(done.of(moved_or_not[0])["text"][0])
    assert len(weights) == block_weights(small.model)
    for key, weight in weights.items():
        assert weight["change"] > 0.05, key
        assert weight["difference"] > 0.02, key

    core = graph.core_lora(model, offer_saved_lora(small.prefix, comfy.folder))
    read = graph.node("ProbePatches", model=ours, other_model=core)
    weights = json.loads(client.queue(graph.prompt).of(read[0])["text"][0])
    assert len(weights) == block_weights(small.model)
    for key, weight in weights.items():
        assert weight["difference"] < 1e-4, key
    log = comfy.log_text()[logged:]
    assert not [text for text in COMPLAINTS if text in log]


def test_the_child_computes_with_it(client, small, latents):
    if not small.model.computes:
        pytest.skip("at this width, it does not compute in any host")
    graph = PromptBuilder()
    model = small.load(graph, small.child)
    source = graph.source(small.lora, source_checkpoint=small.parent)
    patched = graph.apply(model, graph.transfer(source, model))
    for name, one in (("plain", model), ("patched", patched)):
        sample(graph, one, small.model, f"{small.prefix}_{name}")
    client.queue(graph.prompt)
    plain, patched = latents(f"{small.prefix}_plain"), latents(f"{small.prefix}_patched")
    assert np.isfinite(plain).all()
    assert np.isfinite(patched).all()
    assert np.linalg.norm(patched - plain) > 0.01 * np.linalg.norm(plain)


def block_weights(model: SmallModel) -> int:
    return sum(stage.count * len(modules(stage.shapes)) for stage in model.stages)


def sample(graph: PromptBuilder, model: list, small: SmallModel, prefix: str) -> None:
    text = graph.node("ProbeConditioning", context=small.context, pooled=small.pooled)
    empty = graph.node("EmptySD3LatentImage", width=64, height=64, batch_size=1)
    graph.sample(
        prefix,
        model=model,
        steps=1,
        cfg=1.0,
        scheduler="simple",
        positive=text,
        negative=text,
        latent_image=empty,
    )
