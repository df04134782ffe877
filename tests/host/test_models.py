"""Which weights the nodes see: the base ones, wherever they are, and nothing is changed."""

import json

import pytest
import torch
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from comfy_harness.hosts import PACK_ROOT

from .checks import delta_of, relative, same, saved_lora
from .prompts import PromptBuilder

pytestmark = pytest.mark.host

A, B, LORA = "emoji_a.safetensors", "emoji_b.safetensors", "emoji_style_lora.safetensors"


def test_the_key_map_of_a_file_is_that_of_the_loaded_model(client, graph):
    probe = graph.node("ProbeKeyMap", model=graph.checkpoint(A), file_name=A)
    result = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    assert result["names"] > 50
    assert result["architectures"] == ["SD3", "SD3"]
    assert result["missing"] == result["extra"] == result["different"] == []


def test_the_model_is_left_untouched(client, graph):
    model = graph.core_lora(graph.checkpoint(B), LORA, 0.5)
    before = graph.node("ProbeFingerprint", model=model)
    lora = graph.transfer(graph.source(), before)
    after = graph.node("ProbeFingerprint", model=model, after=lora)
    done = client.queue(graph.prompt)
    assert done.of(before[0])["text"] == done.of(after[0])["text"]


def test_a_patched_and_loaded_model_counts_without_its_patches(client, comfy, graph):
    """Another LoRA patches the model in place while it samples; the transfer must not see it."""
    clean = graph.checkpoint(B)
    graph.save(graph.transfer(graph.source(), clean), "loras/clean")
    client.queue(graph.prompt)

    patched = PromptBuilder()
    model = patched.core_lora(patched.checkpoint(B), LORA, 3.0)
    patched.latents(model, "patched")
    client.queue(patched.prompt)  # now the patched weights are in the loaded model
    patched.save(patched.transfer(patched.source(), model), "loras/patched")
    client.queue(patched.prompt)
    assert same(saved_lora(comfy, "clean"), saved_lora(comfy, "patched"))


def test_a_model_as_the_source_is_the_same_as_its_file(client, comfy, graph):
    target = graph.checkpoint(B)
    graph.save(graph.transfer(graph.source(), target), "loras/from_file")
    source_model = graph.core_lora(graph.checkpoint(A), LORA, 2.0)  # its patches do not count
    source = graph.source(
        source_model=source_model, source_checkpoint="(the connected source_model)"
    )
    graph.save(graph.transfer(source, target), "loras/from_model")
    client.queue(graph.prompt)
    assert same(saved_lora(comfy, "from_file"), saved_lora(comfy, "from_model"))


def test_a_model_in_fp8(client, comfy, graph, object_info):
    inputs = object_info["UNETLoader"]["input"]["required"]
    if "weight_dtype" not in inputs:
        pytest.skip("this host cannot load a diffusion model in fp8")
    unet = comfy.folder / "models" / "unet" / B
    unet.parent.mkdir(exist_ok=True)
    if not unet.exists():
        unet.symlink_to(comfy.folder / "models" / "checkpoints" / B)
    full = graph.node("UNETLoader", unet_name=B, weight_dtype="default")
    fp8 = graph.node("UNETLoader", unet_name=B, weight_dtype="fp8_e4m3fn")
    for model, name in ((full, "full"), (fp8, "fp8")):
        graph.save(graph.transfer(graph.source(), model), f"loras/of_{name}")
    client.queue(graph.prompt)
    one, other = saved_lora(comfy, "of_full"), saved_lora(comfy, "of_fp8")
    assert one.keys() == other.keys()
    assert not same(one, other)  # the weights did lose precision
    assert relative(delta_of(other), delta_of(one)) < 0.1


def test_a_quantised_model(client, comfy, graph, object_info):
    """fp8 with a scale for each weight, which newer hosts keep quantised and dequantise on use."""
    if "weight_dtype" not in object_info["UNETLoader"]["input"]["required"]:
        pytest.skip("this host has no quantised weights")
    write_scaled_fp8(comfy.folder / "models" / "checkpoints" / "scaled_fp8.safetensors")
    for name, checkpoint in (("plain", B), ("scaled", "scaled_fp8.safetensors")):
        lora = graph.transfer(graph.source(), graph.checkpoint(checkpoint))
        graph.save(lora, f"loras/onto_{name}")
    from_scaled = graph.source(source_checkpoint="scaled_fp8.safetensors")
    graph.save(graph.transfer(from_scaled, graph.checkpoint(A)), "loras/from_scaled")
    client.free()
    done = client.queue(graph.prompt)
    assert all("21 of 21 modules" in text for text in done.texts() if "transferred" in text)
    plain, scaled = saved_lora(comfy, "onto_plain"), saved_lora(comfy, "onto_scaled")
    assert not same(plain, scaled)  # the weights did lose precision
    assert relative(delta_of(scaled), delta_of(plain)) < 0.1


def write_scaled_fp8(path) -> None:
    """Checkpoint B with its larger layers in fp8, in the layout of `scaled_fp8` files."""
    prefix, fp8 = "model.diffusion_model.", torch.float8_e4m3fn
    tensors = {f"{prefix}scaled_fp8": torch.zeros(2, dtype=fp8)}
    for key, weight in load_tensors(PACK_ROOT / "demo" / "models" / B).items():
        tensors[key] = weight
        if key.endswith(("qkv.weight", "proj.weight", "fc1.weight", "fc2.weight")) and (
            "joint_blocks" in key
        ):
            scale = weight.float().abs().max() / torch.finfo(fp8).max
            tensors[key] = (weight.float() / scale).to(fp8)
            tensors[f"{key.removesuffix('weight')}scale_weight"] = scale
    save_file(tensors, path)


def test_the_nodes_say_what_they_found(client, graph):
    model = graph.checkpoint(B)
    source = graph.source()
    lora = graph.transfer(source, model)
    graph.save(lora, "loras/said")
    client.free()  # a node that is cached says nothing
    done = client.queue(graph.prompt)
    info, summary = done.of(source[0])["text"][0], done.of(lora[0])["text"][0]
    assert "SD3" in info
    assert "rank 8" in info
    assert "LoRA" in info
    assert "modules match" in info
    assert f"from {A} (SD3) to {B} (SD3)" in summary
    assert "mode full, threshold 0.5, energy 0.8" in summary
