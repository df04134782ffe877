"""The core's own extractor (Extract and Save Lora, since 2024) beside ours, in one server.

ComfyUI 15907: with 0.33.0 on a GPU an extracted LoRA gives noise, with 0.22 it did not. Read from
its code, and shown below:

- Its loader of dynamic VRAM patches small layers (up to 16 KB: norms above all) in place, and marks
  none as patched. The extractor takes that for not patched, and patches them again: tuned - base -
  base. The norms of q and k, which are about 1, get a difference of about -1, and vanish when it is
  added. Where such a norm is no layer of the host's own it is not patched at all, and its
  difference is the tuned norm itself. Either way: noise.
- Both factors of every module are clamped at a quantile, whatever that does to their product.
- A weight whose SVD or clamp fails (a convolution in three dimensions) is skipped, with a line in
  the log; a parameter that is no `.weight` (a modulation) without one.
"""

import json

import pytest
from safetensors.torch import load_file

from .checks import relative
from .prompts import PromptBuilder
from .small.architectures import ARCHITECTURES
from .small.files import offer_saved_lora, skip_unless_it_loads, write_small_files

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
WHOLE = 512  # more than any module has


@pytest.fixture(autouse=True)
def core_extractor(object_info) -> None:
    if "LoraSave" not in object_info:
        pytest.skip("this host extracts no LoRAs itself")


def by_the_core(graph: PromptBuilder, base: list, tuned: list, prefix: str, **inputs) -> None:
    difference = graph.node("ModelMergeSubtract", model1=tuned, model2=base, multiplier=1.0)
    if inputs.pop("dynamic", False):
        difference = graph.node("ProbeDynamic", model=difference)
    choices = {"rank": WHOLE, "lora_type": "standard", "bias_diff": True} | inputs
    name = f"loras/{prefix}"
    graph.node("LoraSave", filename_prefix=name, model_diff=difference, **choices)


def off(client, graph: PromptBuilder, base: list, tuned: list, lora: str) -> dict[str, float]:
    """How far base + LoRA is from the tuned model, of what differs; 1 for what is not in it."""
    probe = graph.node("ProbeBecomes", model=graph.core_lora(base, lora), tuned=tuned)
    weights = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    return {key: one["off"] for key, one in weights.items() if one["change"] > 0}


def both(client, comfy, load, prefix: str, **inputs) -> tuple[dict[str, float], dict[str, float]]:
    """What the core's file and ours leave to the tuned model, both in fp16."""
    graph = PromptBuilder()
    base, tuned = load(graph)
    rank = inputs.get("rank", 0)
    graph.save(graph.extract(base, tuned, rank=rank), f"loras/{prefix}_ours", "fp16")
    by_the_core(graph, base, tuned, f"{prefix}_core", **inputs)
    client.queue(graph.prompt)
    client.free()
    found = []
    for kind in ("core", "ours"):
        graph = PromptBuilder()
        file = offer_saved_lora(f"{prefix}_{kind}", comfy.folder)
        found.append(off(client, graph, *load(graph), file))
    assert found[0].keys() == found[1].keys()
    return found[0], found[1]


def emoji(graph: PromptBuilder) -> tuple[list, list]:
    return graph.checkpoint(A), graph.checkpoint(B)


def test_where_the_core_is_right_both_agree(client, comfy):
    """Whole differences, which it does not cut."""
    core, ours = both(client, comfy, emoji, "full", lora_type="full_diff")
    named = {key: value for key, value in core.items() if key.endswith(("weight", "bias"))}
    assert len(named) > 70
    assert max(named.values()) < 1e-3
    assert max(ours[key] for key in named) < 1e-3


@pytest.mark.parametrize("rank", [8, 32])
def test_ours_is_nowhere_further(client, comfy, rank):
    core, ours = both(client, comfy, emoji, f"cut_{rank}", rank=rank)
    cut = [key for key, value in ours.items() if value > 0.01]
    assert len(cut) > 25
    assert all(ours[key] <= core[key] * (1 + 1e-4) for key in cut)


def test_the_core_clamps_its_factors(client, comfy):
    """At full rank nothing would have to be lost."""
    core, ours = both(client, comfy, emoji, "clamped")
    assert max(ours.values()) < 1e-3
    assert max(core.values()) > 0.2
    assert sum(value > 0.05 for value in core.values()) > 25


def test_the_core_skips_modules(client, comfy):
    skip_unless_it_loads(ARCHITECTURES["wan"], client)
    files = write_small_files("wan", comfy.folder / "models")
    core, ours = both(
        client,
        comfy,
        lambda graph: (files.load(graph, files.parent), files.load(graph, files.child)),
        "skipped",
    )
    missing = {key for key, value in core.items() if value == 1}
    assert {key.split(".", 1)[1] for key in missing} == {
        "patch_embedding.weight",
        "head.modulation",
        *(f"blocks.{i}.modulation" for i in range(4)),
    }
    assert max(ours.values()) < 1e-3


@pytest.fixture
def dynamic_loader(client) -> None:
    version = client.system_stats()["system"].get("comfyui_version", "0")
    if tuple(int(part) for part in version.split(".")) < (0, 33):
        pytest.skip("this host has no dynamic loader that patches small layers in place")


@pytest.mark.usefixtures("dynamic_loader")
def test_whole_norms_are_added(client, comfy, latents):
    """The real node, on a MODEL in the state that the dynamic loader leaves it in.

    The norms of an SD3's q and k are no layers of the host's own: their difference is the whole
    tuned norm.
    """
    graph = PromptBuilder()
    by_the_core(graph, *emoji(graph), "noise", dynamic=True, lora_type="full_diff")
    client.queue(graph.prompt)
    client.free()
    graph, file = PromptBuilder(), offer_saved_lora("noise", comfy.folder)
    base, tuned = emoji(graph)
    models = {
        "base": base,
        "tuned": tuned,
        "core": graph.core_lora(base, file),
        "ours": graph.apply(base, graph.extract(A, B)),
    }
    for name, model in models.items():
        graph.latents(model, f"noise_{name}")
    values = off(client, graph, base, tuned, file)
    norms = [value for key, value in values.items() if ".ln_" in key]
    others = [value for key, value in values.items() if key.endswith("qkv.weight")]
    assert min(norms) > 2  # without a LoRA it is 1
    assert max(others) < 1e-3
    wanted = latents("noise_tuned")
    far = {name: relative(latents(f"noise_{name}"), wanted) for name in ("base", "core", "ours")}
    assert far["base"] > 0.1
    assert far["core"] > 0.2
    assert far["ours"] < 1e-3


@pytest.mark.usefixtures("dynamic_loader")
def test_the_core_subtracts_small_layers_twice(client, comfy):
    """Those of Wan, as of Anima: the norms of q and k become nearly nothing."""
    files = write_small_files("wan", comfy.folder / "models")
    graph = PromptBuilder()
    base, tuned = files.load(graph, files.parent), files.load(graph, files.child)
    by_the_core(graph, base, tuned, "twice", dynamic=True, lora_type="full_diff")
    client.queue(graph.prompt)
    client.free()
    written = load_file(comfy.folder / "models" / "loras" / offer_saved_lora("twice", comfy.folder))
    models = [load_file(comfy.folder / "models" / "unet" / f) for f in (files.parent, files.child)]
    for norm in ("self_attn.norm_q", "cross_attn.norm_k"):
        key = f"blocks.0.{norm}"
        before, after = (model[f"{key}.weight"].float() for model in models)
        diff = written[f"diffusion_model.{key}.diff"].float()
        assert (diff - (after - before)).norm() > 5 * (after - before).norm()
        assert (diff - (after - 2 * before)).norm() < 1e-2 * before.norm()
