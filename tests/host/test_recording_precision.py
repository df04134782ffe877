"""Recording, calibrating and refining where a model's weights are kept in other forms."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy_harness.hosts import PACK_ROOT

from .checks import fails, relative
from .prompts import PromptBuilder, out
from .quantised_files import ALWAYS, FORMS, NAMES, PREFIX, SINCE_2025, write_quantised

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
PLAIN = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}
FP8 = {"fp8_e4m3fn": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


@pytest.fixture(scope="module")
def loaded(client, object_info) -> set[str]:
    """The forms that this host loads as models."""
    graph = PromptBuilder()
    probe = graph.node("ProbeForms")
    known = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    since_2025 = SINCE_2025 if "LoraSave" in object_info else ()
    return {*ALWAYS, *since_2025, *(form for form, name in NAMES.items() if name in known), *PLAIN}


def written(comfy, form: str, checkpoint: str) -> str:
    """A demo checkpoint in a form."""
    folder = comfy.folder / "models" / "checkpoints"
    if form in FORMS:
        return write_quantised(form, checkpoint, folder)[0]
    return saved(comfy, f"{form}_{checkpoint}", checkpoint, lambda w: w.to(PLAIN[form]))


def saved(comfy, name: str, checkpoint: str, change) -> str:
    """A demo checkpoint whose weights were changed."""
    tensors = load_file(PACK_ROOT / "demo" / "models" / checkpoint)
    changed = {key: change(t) if t.ndim > 1 else t for key, t in tensors.items()}
    save_file(changed, comfy.folder / "models" / "checkpoints" / name)
    return name


def drifted(share: float):
    """A light fine-tune: every weight is off by that share."""
    random = torch.Generator().manual_seed(0)

    def drift(weight: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(weight.shape, generator=random)
        size = weight.float().norm() / noise.norm()
        return (weight.float() + share * size * noise).to(weight.dtype)

    return drift


def said(client, graph: PromptBuilder, *nodes: list) -> list[str]:
    client.free()
    done = client.queue(graph.prompt)
    return [done.of(node[0])["text"][0] for node in nodes]


def readouts(summary: str) -> int:
    """How many a module or a part of it was calibrated by."""
    found = re.search(r"calibrated by (\d+) read-outs", summary)
    assert found, summary
    return int(found[1])


@pytest.mark.parametrize("form", [*PLAIN, *FORMS])
def test_a_target(client, comfy, graph, loaded, form):
    """All modules are calibrated and refined, whatever class their layers have in the host."""
    if form not in loaded:
        pytest.skip("this host does not know this form: it takes the stored numbers for weights")
    source, target = graph.source(), graph.checkpoint(written(comfy, form, B))
    recording = graph.record(source, graph.checkpoint(A))
    moved, plain = (
        graph.transfer(source, model, mode="auto", threshold=0.0, recording=recording)
        for model in (target, graph.checkpoint(B))
    )
    refined = graph.refine(target, moved, recording)
    graph.node("ProbeText", text=out(refined, 1))
    graph.node("ProbeText", text=out(plain, 1))
    summary, of_plain, info = said(client, graph, moved, plain, refined)
    assert readouts(summary) == readouts(of_plain) >= 21
    assert "by its weights" not in summary
    assert "21 of 21 modules refined, 3 steps" in info
    assert "NOTHING WAS GAINED" not in info


@pytest.mark.parametrize("form", [*PLAIN, *FORMS])
def test_a_source(client, comfy, graph, loaded, form):
    """The checkpoint that the LoRA was trained on, whatever the graph has loaded of it."""
    if form not in loaded:
        pytest.skip("this host does not know this form: it takes the stored numbers for weights")
    recording = graph.record(graph.source(), graph.checkpoint(written(comfy, form, A)))
    graph.node("ProbeText", text=out(recording, 1))
    (info,) = said(client, graph, recording)
    assert "21 of 21 modules heard" in info


@pytest.mark.parametrize("form", FP8)
def test_the_file_is_the_coarser_one(client, comfy, graph, form):
    source = graph.source(source_checkpoint=written(comfy, form, A))
    recording = graph.record(source, graph.checkpoint(A))
    graph.node("ProbeText", text=out(recording, 1))
    (info,) = said(client, graph, recording)
    assert "21 of 21 modules heard" in info


@pytest.mark.parametrize("form", [*PLAIN, *FP8])
def test_a_light_fine_tune_is_not_the_source(client, comfy, graph, form):
    drift, dtype = drifted(0.03), (PLAIN | FP8)[form]
    name = saved(comfy, f"tuned_{form}.safetensors", A, lambda w: drift(w).to(dtype))
    recording = graph.record(graph.source(), graph.checkpoint(name))
    graph.node("ProbeText", text=out(recording, 1))
    fails(client, graph, recording, f"is not the source {A}", "differs by")


@pytest.mark.parametrize("form", FORMS)
def test_another_model_is_not_the_source(client, comfy, graph, loaded, form):
    if form not in loaded:
        pytest.skip("this host does not know this form: it takes the stored numbers for weights")
    recording = graph.record(graph.source(), graph.checkpoint(written(comfy, form, B)))
    graph.node("ProbeText", text=out(recording, 1))
    fails(client, graph, recording, f"is not the source {A}", "differs by")


# What is not refined stays in the network


def with_rest(comfy) -> str:
    """The demo's LoRA with a full difference in place of one module, a bias and a DoRA."""
    lora = load_file(PACK_ROOT / "demo" / "models" / "emoji_style_lora.safetensors")
    model = load_file(PACK_ROOT / "demo" / "models" / A)
    random = torch.Generator().manual_seed(5)
    one, other, third = (
        f"joint_blocks.{place}"
        for place in ("0.x_block.mlp.fc1", "1.x_block.mlp.fc2", "1.x_block.mlp.fc1")
    )
    names = {place: f"lora_unet_{place.replace('.', '_')}" for place in (one, other, third)}
    tensors = {key: t for key, t in lora.items() if not key.startswith(f"{names[one]}.")}
    weight, bias = model[f"{PREFIX}{one}.weight"].float(), model[f"{PREFIX}{other}.bias"].float()
    noise = torch.randn(weight.shape, generator=random)
    tensors[f"{names[one]}.diff"] = noise * weight.norm() / noise.norm()
    tensors[f"{names[other]}.diff_b"] = torch.randn(bias.shape, generator=random) * 0.3
    size = model[f"{PREFIX}{third}.weight"].float().norm(dim=1, keepdim=True)
    tensors[f"{names[third]}.dora_scale"] = size * 1.2
    save_file(tensors, comfy.folder / "models" / "loras" / "with_rest.safetensors")
    return "with_rest.safetensors"


def test_the_rest_of_a_lora_is_there_while_it_is_refined(client, comfy, graph, latents):
    """On the source itself nothing is left to learn, so the pictures stay what they are."""
    model, source = graph.checkpoint(A), graph.source(with_rest(comfy))
    recording = graph.record(source, model)
    copied = graph.transfer(source, model, threshold=0.0)
    refined = graph.refine(model, copied, recording, steps=12, rate=0.05, own=0.3)
    graph.latents(graph.apply(model, copied), "rest_copied")
    graph.latents(graph.apply(model, refined), "rest_refined")
    graph.latents(graph.core_lora(model, "emoji_style_lora.safetensors"), "rest_missing")
    (info,) = said(client, graph, refined)
    assert "19 of 21 modules refined" in info
    wanted = latents("rest_copied")
    assert relative(latents("rest_missing"), wanted) > 0.15
    assert relative(latents("rest_refined"), wanted) < 5e-3
