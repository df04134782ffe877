"""The demo's loader: the host's own model, with as many blocks as the file has."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy_harness.client import PromptFailed
from comfy_harness.hosts import PACK_ROOT
from demo.run import link_model

from .checks import relative
from .prompts import PromptBuilder
from .small_sd15 import TARGET as SD15

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
CHILDREN = {"emoji_a_pruned.safetensors": 2, "emoji_a_deepened.safetensors": 4}
MODELS = PACK_ROOT / "demo" / "models"
PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def children(comfy) -> None:
    for name in CHILDREN:
        if not (place := comfy.folder / "models" / "checkpoints" / name).exists():
            link_model(MODELS / name, place)


def load(graph: PromptBuilder, name: str) -> list:
    return graph.node("EmojiLoader", ckpt_name=name)


def test_a_is_what_the_core_loader_makes_of_it(client, graph, latents):
    graph.latents(load(graph, A), "emoji_loader")
    graph.latents(graph.checkpoint(A), "by_the_core_loader")
    graph.latents(graph.checkpoint(B), "another")
    client.queue(graph.prompt)
    assert relative(latents("another"), latents("by_the_core_loader")) > 0.1
    assert (latents("emoji_loader") == latents("by_the_core_loader")).all()


@pytest.mark.parametrize("name", CHILDREN)
def test_the_core_loader_refuses_a_child(client, graph, children, name):
    """The reason for the node; a host that counts the blocks makes it needless."""
    graph.latents(graph.checkpoint(name), "refused")
    with pytest.raises(PromptFailed, match="size mismatch"):
        client.queue(graph.prompt)


@pytest.mark.parametrize("name", CHILDREN)
def test_a_child_draws_what_a_draws(client, graph, children, latents, name):
    graph.latents(load(graph, name), "child")
    graph.latents(load(graph, A), "parent")
    graph.latents(load(graph, B), "another")
    client.queue(graph.prompt)
    far = relative(latents("another"), latents("parent"))
    assert far > 0.4
    assert relative(latents("child"), latents("parent")) < far / 2


@pytest.mark.parametrize(("name", "blocks"), CHILDREN.items())
def test_the_core_lora_loader_reaches_every_block(client, comfy, graph, children, name, blocks):
    weights = load_file(MODELS / name).items()
    layers = {key: weight for key, weight in weights if ".attn." in key and weight.dim() == 2}
    assert len(layers) == 4 * blocks - 1  # the last block has no output for the context
    lora = {}
    for key, weight in layers.items():
        module = key.removeprefix(PREFIX).removesuffix(".weight").replace(".", "_")
        lora[f"lora_unet_{module}.lora_up.weight"] = torch.randn(len(weight), 2)
        lora[f"lora_unet_{module}.lora_down.weight"] = torch.randn(2, weight.shape[1])
    file = f"all_of_{blocks}_blocks.safetensors"
    save_file(lora, comfy.folder / "models" / "loras" / file)

    model = load(graph, name)
    probe = graph.node("ProbePatches", model=graph.core_lora(model, file), other_model=model)
    changes = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    assert set(changes) == {key.removeprefix("model.") for key in layers}
    assert min(change["change"] for change in changes.values()) > 0.1


@pytest.mark.parametrize("as_model", [False, True], ids=["file", "source_model"])
def test_a_deepened_source_is_read_whole(client, graph, children, as_model):
    """As a file too: the host's class would have one block less."""
    name = "emoji_a_deepened.safetensors"
    given = {"source_checkpoint": name}
    if as_model:
        given["source_checkpoint"] = "(the connected source_model)"
        given["source_model"] = load(graph, name)
    source = graph.source(**given)
    moved = graph.transfer(source, load(graph, A))
    graph.save(moved, "of_a_deepened_source")
    client.free()
    summary = client.queue(graph.prompt).of(moved[0])["text"][0]
    assert "by similarity): 0 -> 0, 1 -> 1, 3 -> 2" in summary
    assert "unmatched in the source: 2" in summary


def test_another_model_is_refused_by_name(client, graph, sd15):
    graph.latents(load(graph, SD15), "refused")
    with pytest.raises(PromptFailed, match="is no checkpoint of this demo"):
        client.queue(graph.prompt)


def test_an_inserted_block_takes_a_share_if_asked(client, comfy, graph, children):
    for share, prefix in ((0.0, "no_share"), (0.5, "half_a_share")):
        model = load(graph, "emoji_a_deepened.safetensors")
        graph.save(graph.transfer(graph.source(), model, unserved=share), prefix)
    client.queue(graph.prompt)
    without, shared = (
        set(load_file(max((comfy.folder / "output").glob(f"{prefix}_*.safetensors"))))
        for prefix in ("no_share", "half_a_share")
    )
    assert not any("joint_blocks_2_" in key for key in without)
    assert all("joint_blocks_2_" in key for key in shared - without)
    assert without < shared
