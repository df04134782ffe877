"""What Save Transferred LoRA writes."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prolora import __version__

from .prompts import PromptBuilder

pytestmark = pytest.mark.host


@pytest.mark.parametrize(("dtype", "name"), [("fp16", "F16"), ("bf16", "BF16"), ("fp32", "F32")])
def test_the_file(client, comfy, graph, dtype, name):
    model = graph.checkpoint("emoji_b.safetensors")
    lora = graph.transfer(graph.source(), model, rank=4)
    graph.save(lora, f"loras/written_{dtype}", dtype)
    client.queue(graph.prompt)

    path = max((comfy.folder / "output" / "loras").glob(f"written_{dtype}_*.safetensors"))
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
        ups = [key for key in keys if key.endswith(".lora_up.weight")]
        assert {file.get_slice(key).get_dtype() for key in ups} == {name}
        ranks = {key: file.get_slice(key).get_shape()[1] for key in ups}
        # Of a fused weight q, k and v move apart, each at rank 4, where the host has names for them
        # and the LoRA has something for them.
        for key, rank in ranks.items():
            assert rank in ((4, 8, 12) if "attn_qkv" in key else (4,)), key
        alphas = [key for key in keys if key.endswith(".alpha")]
        assert len(alphas) == len(ups) == len(keys) // 3
        assert [float(file.get_tensor(key)) for key in sorted(alphas)] == [
            ranks[key] for key in sorted(ups)
        ]
        assert all(key.startswith("lora_unet_joint_blocks_") for key in keys)
        metadata = file.metadata()
    assert metadata["prolora_version"] == __version__
    assert metadata["prolora_source"] == "emoji_a.safetensors (SD3)"
    assert metadata["prolora_target"] == "emoji_b.safetensors (SD3)"
    assert metadata["prolora_lora"] == "emoji_style_lora.safetensors"
    assert metadata["prolora_mode"] == "full"
    assert (metadata["prolora_threshold"], metadata["prolora_energy"]) == ("0.5", "0.8")
    assert int(metadata["prolora_modules_moved"]) == len(ups)
    assert not list(path.parent.glob("*.partial"))


def test_a_bias_that_serves_two_blocks(client, comfy, graph):
    """Both are written, where the file's dtype is the one that they come in."""
    bias = torch.randn(576, dtype=torch.float16)
    module = "lora_unet_joint_blocks_1_x_block_attn_qkv"
    save_file({f"{module}.diff_b": bias}, comfy.folder / "models" / "loras" / "bias.safetensors")
    pairs = dict.fromkeys(("joint_blocks.0", "joint_blocks.1"), "joint_blocks.1")
    model = graph.checkpoint("emoji_b.safetensors")
    lora = graph.transfer(graph.source("bias.safetensors"), model, pairs=json.dumps(pairs))
    graph.save(lora, "loras/bias_of_two", "fp16")
    client.queue(graph.prompt)
    path = max((comfy.folder / "output" / "loras").glob("bias_of_two_*.safetensors"))
    written = load_file(path)
    assert set(written) == {f"{module.replace('_1_', f'_{i}_')}.diff_b" for i in (0, 1)}
    assert all(torch.equal(tensor, bias) for tensor in written.values())


def test_nothing_is_overwritten(client, comfy):
    for threshold in (0.6, 0.7):  # two different prompts, one prefix
        graph = PromptBuilder()
        model = graph.checkpoint("emoji_b.safetensors")
        graph.save(graph.transfer(graph.source(), model, threshold=threshold), "loras/numbered")
        client.queue(graph.prompt)
    assert len(list((comfy.folder / "output" / "loras").glob("numbered_*.safetensors"))) == 2
