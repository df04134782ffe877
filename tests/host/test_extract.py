"""Extract Difference as LoRA in a real graph: base + LoRA is the tuned model, on every base."""

import json
import re
import threading

import numpy as np
import pytest
from safetensors import safe_open

from comfy_harness.client import PromptInterrupted

from .checks import fails, relative, same, saved_lora
from .prompts import PromptBuilder, out
from .small.architectures import ARCHITECTURES
from .small.files import offer_saved_lora, skip_unless_it_loads, write_small_files
from .small_sd15 import SOURCE, TARGET

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
UNNAMED = r"(\d+): no name in a LoRA file means it"


def becomes(client, graph: PromptBuilder, lora: list, probe: list) -> tuple[dict, str]:
    """What ProbeBecomes measured, and what the node said."""
    client.free()  # a node that is cached says nothing
    done = client.queue(graph.prompt)
    return json.loads(done.of(probe[0])["text"][0]), done.of(lora[0])["text"][0]


def assert_becomes(weights: dict, summary: str, off: float) -> None:
    """Every weight that differs, but for those that the host has no name for."""
    differ = {key: one for key, one in weights.items() if one["change"] > 0}
    assert differ
    assert all(one["change"] > 1e-3 for one in differ.values())
    unnamed = {key for key, one in differ.items() if one["off"] == 1}
    found = re.search(UNNAMED, summary)
    assert len(unnamed) == (int(found[1]) if found else 0), unnamed
    for key, one in weights.items():
        assert key in unnamed or one["off"] < off, key


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_base_and_lora_are_the_tuned_model(client, comfy, name):
    skip_unless_it_loads(ARCHITECTURES[name], client)
    files, graph = write_small_files(name, comfy.folder / "models"), PromptBuilder()
    base, tuned = files.load(graph, files.parent), files.load(graph, files.child)
    lora = graph.extract(base, tuned)
    graph.save(lora, f"loras/{files.prefix}_difference", "fp32")
    probe = graph.node("ProbeBecomes", model=graph.apply(base, lora), tuned=tuned)
    weights, summary = becomes(client, graph, lora, probe)
    assert_becomes(weights, summary, 1e-4)
    # The file, read by the host's own loader.
    logged = len(comfy.log_text())
    written = offer_saved_lora(f"{files.prefix}_difference", comfy.folder)
    probe = graph.node("ProbeBecomes", model=graph.core_lora(base, written), tuned=tuned)
    weights = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    assert_becomes(weights, summary, 1e-4)
    assert "lora key not loaded" not in comfy.log_text()[logged:]


def test_a_checkpoint_with_its_text_encoder(client, comfy, sd15, graph):
    base, tuned = graph.checkpoint(SOURCE), graph.checkpoint(TARGET)
    clips = out(base, 1), out(tuned, 1)
    lora = graph.extract(base, tuned, base_clip=clips[0], tuned_clip=clips[1])
    patched = graph.apply(base, lora, clip=clips[0])
    probe = graph.node(
        "ProbeBecomes", model=patched, tuned=tuned, clip=out(patched, 1), tuned_clip=clips[1]
    )
    weights, summary = becomes(client, graph, lora, probe)
    assert sum(key.startswith("clip_l") and w["change"] > 0 for key, w in weights.items()) > 70
    assert_becomes(weights, summary, 1e-4)
    assert f"{TARGET} (SD15) minus {SOURCE} (SD15)" in summary
    assert "identical in both" in summary


def test_files_that_are_never_loaded_give_the_same(client, comfy, sd15, graph):
    base, tuned = graph.checkpoint(SOURCE), graph.checkpoint(TARGET)
    clips = {"base_clip": out(base, 1), "tuned_clip": out(tuned, 1)}
    choices = {"rank": 4, "energy": 0.9}
    graph.save(graph.extract(SOURCE, TARGET, **choices), "loras/difference_of_files")
    graph.save(graph.extract(base, tuned, **clips, **choices), "loras/difference_of_models")
    client.queue(graph.prompt)
    one, other = (saved_lora(comfy, f"difference_of_{kind}") for kind in ("files", "models"))
    assert same(one, other)
    assert {len(t) for k, t in one.items() if k.endswith("lora_down.weight")} <= {1, 2, 3, 4}


def test_the_usual_names_and_the_header(client, comfy, graph):
    graph.save(graph.extract(A, B, rank=4), "loras/named_difference", "fp16")
    client.queue(graph.prompt)
    written = saved_lora(comfy, "named_difference")
    assert all(key.startswith("lora_unet_") for key in written if "lora_up" in key)
    assert {t.dtype for k, t in written.items() if "lora_" in k and "alpha" not in k} == {
        np.dtype("float16")
    }
    path = max((comfy.folder / "output" / "loras").glob("named_difference_*.safetensors"))
    with safe_open(path, "pt") as file:
        header = file.metadata()
    assert header["prolora_base"] == f"{A} (SD3)"
    assert header["prolora_tuned"] == f"{B} (SD3)"
    assert header["prolora_rank"] == "4"


def test_pictures_are_the_tuned_models(client, latents, graph):
    base, tuned = graph.checkpoint(A), graph.checkpoint(B)
    graph.latents(base, "extract_base")
    graph.latents(tuned, "extract_tuned")
    for rank, name in ((0, "whole"), (16, "cut")):
        energy = 1.0
        lora = graph.extract(A, B, rank=rank, energy=energy)
        graph.latents(graph.apply(base, lora), f"extract_{name}")
    client.queue(graph.prompt)
    wanted = latents("extract_tuned")
    off = {n: relative(latents(f"extract_{n}"), wanted) for n in ("base", "cut", "whole")}
    assert off["base"] > 0.1
    assert off["whole"] < 1e-3
    assert off["whole"] < off["cut"] < off["base"]


def test_a_model_counts_without_its_patches(client, comfy, graph):
    """Even where it was loaded with them, which changes the weights in place."""
    style = "emoji_style_lora.safetensors"
    graph.save(graph.extract(graph.checkpoint(A), graph.checkpoint(B), rank=4), "loras/bare")
    client.queue(graph.prompt)
    patched = PromptBuilder()
    models = [patched.core_lora(patched.checkpoint(name), style, 2.0) for name in (A, B)]
    patched.latents(models[0], "patched_base")
    client.queue(patched.prompt)
    patched.save(patched.extract(*models, rank=4), "loras/patched")
    client.queue(patched.prompt)
    assert same(saved_lora(comfy, "bare"), saved_lora(comfy, "patched"))


def test_models_in_fp8(client, comfy, graph, object_info):
    """The difference is that of the values, although it is finer than the steps of fp8."""
    if "weight_dtype" not in object_info["UNETLoader"]["input"]["required"]:
        pytest.skip("this host cannot load a diffusion model in fp8")
    models = []
    for name in (A, B):
        unet = comfy.folder / "models" / "unet" / name
        if not unet.exists():
            unet.symlink_to(comfy.folder / "models" / "checkpoints" / name)
        models.append(graph.node("UNETLoader", unet_name=name, weight_dtype="fp8_e4m3fn"))
    lora = graph.extract(*models)
    probe = graph.node("ProbeBecomes", model=graph.apply(models[0], lora), tuned=models[1])
    assert_becomes(*becomes(client, graph, lora, probe), 1e-4)


def test_cancel_stops_it(client, graph):
    graph.save(node := graph.extract(A, B, rank=3), "loras/cancelled")
    client.free()
    seen = []

    def cancel(progress) -> None:
        if progress.node_id == node[0] and progress.value >= 1:
            if not seen:
                threading.Thread(target=client.interrupt).start()
            seen.append((progress.value, progress.maximum))

    with pytest.raises(PromptInterrupted):
        client.queue(graph.prompt, cancel)
    assert max(seen)[0] < max(seen)[1]


def test_no_base(client, graph):
    node = graph.extract("(the connected base_model)", B)
    graph.save(node, "loras/none")
    fails(client, graph, node, "No base: connect a MODEL to base_model")


def test_one_model_twice(client, graph):
    node = graph.extract(A, A)
    graph.save(node, "loras/none")
    fails(client, graph, node, f"Nothing of {A} differs from {A}", "save that MODEL")


def test_another_depth(client, graph):
    node = graph.extract(A, "emoji_a_pruned.safetensors")
    graph.save(node, "loras/none")
    fails(client, graph, node, "differ in depth: joint_blocks has 3 blocks", "ProLoRA Transfer")


def test_what_it_keeps_is_told(client, graph):
    node = graph.extract(A, B, rank=8)
    graph.save(node, "loras/told", "fp32")
    client.free()
    summary = client.queue(graph.prompt).of(node[0])["text"][0]
    assert f"- {B} (SD3) minus {A} (SD3), which it is for" in summary
    assert "rank 8, energy 1" in summary
    share = float(re.search(r"weights in the LoRA; it keeps ([\d.]+)% of their", summary)[1])
    assert 10 < share < 60


def test_the_report(client, comfy, graph):
    """The node that shows a transfer shows an extraction: its picture, its table, its figures."""
    lora = graph.extract(A, B, rank=8)
    report = graph.node("ProLoRAReport", lora=lora, filename_prefix="reports/difference")
    client.free()
    done = client.queue(graph.prompt)
    assert len(done.of(report[0])["images"]) == 1
    written = max((comfy.folder / "output" / "reports").glob("difference_*.json"))
    rows = json.loads(written.read_text(encoding="utf-8"))["rows"]
    drifts = [row["drift"] for row in rows if row["status"] == "moved"]
    assert len(drifts) == 35
    assert all(0.05 < drift < 1 for drift in drifts)
