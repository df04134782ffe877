"""Files that something is wrong with, each written by one small function."""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from comfy_harness.hosts import PACK_ROOT

GOOD_LORA = PACK_ROOT / "demo" / "models" / "emoji_style_lora.safetensors"
GOOD_CHECKPOINT = PACK_ROOT / "demo" / "models" / "emoji_a.safetensors"
FLUX_MODULE = "lora_unet_double_blocks_0_img_attn_qkv"


def empty(path: Path) -> None:
    path.write_bytes(b"")


def truncated(path: Path) -> None:
    data = GOOD_LORA.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def renamed_text(path: Path) -> None:
    path.write_text("<html>Please log in to download this file.</html>" * 10)


def pickle(path: Path) -> None:
    torch.save({"a": torch.zeros(3)}, path)


def claims_too_much(path: Path) -> None:
    header = {"a": {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}}
    _with_header(path, json.dumps(header).encode(), b"\0" * 40)


def gigabyte_header(path: Path) -> None:
    path.write_bytes(struct.pack("<Q", 2**30) + b"{" + b" " * 1000)


def other_architecture(path: Path) -> None:
    _lora(path, {FLUX_MODULE: (96, 32)})


def other_width(path: Path) -> None:
    module = next(k for k in load_file(GOOD_LORA) if k.endswith("lora_up.weight"))
    _lora(path, {module.removesuffix(".lora_up.weight"): (96, 32)})


def nan(path: Path) -> None:
    tensors = load_file(GOOD_LORA)
    tensors[min(tensors)].view(-1)[0] = torch.nan
    save_file(tensors, path)


def half_a_pair(path: Path) -> None:
    tensors = load_file(GOOD_LORA)
    del tensors[next(k for k in tensors if k.endswith("lora_down.weight"))]
    save_file(tensors, path)


def no_lora(path: Path) -> None:
    save_file({"some.weight": torch.zeros(3)}, path)


def loha_without_a_factor(path: Path) -> None:
    _module(path, hada_w1_a=(576, 4), hada_w1_b=(4, 192), hada_w2_a=(576, 4))


def lokr_without_a_factor(path: Path) -> None:
    _module(path, lokr_w1=(2, 2), lokr_w2_a=(288, 4))


def glora_without_a_factor(path: Path) -> None:
    _module(path, **{"a1.weight": (192, 4), "a2.weight": (4, 192), "b1.weight": (576, 4)})


def oft_of_no_squares(path: Path) -> None:
    _module(path, oft_blocks=(72, 8, 7))


def oft_of_another_width(path: Path) -> None:
    _module(path, oft_blocks=(50, 8, 8))


def dora_of_another_width(path: Path) -> None:
    lora = {"lora_up.weight": (576, 4), "lora_down.weight": (4, 192)}
    _module(path, **lora, dora_scale=(100, 1))


def magnitude_alone(path: Path) -> None:
    _module(path, dora_scale=(576, 1))


def foura_without_a_factor(path: Path) -> None:
    _module(path, **{"foura_up.weight": (576, 4), "foura_gate": (4,)})


def two_families(path: Path) -> None:
    loha = {"hada_w1_a": (576, 4), "hada_w1_b": (4, 192)}
    _module(path, **loha, **{"lora_up.weight": (576, 4), "lora_down.weight": (4, 192)})


def unequal_ranks(path: Path) -> None:
    _module(path, **{"lora_up.weight": (576, 4), "lora_down.weight": (3, 192)})


def ip_adapter(path: Path) -> None:
    tensors = {f"image_proj.{i}.weight": torch.ones(2) for i in range(9)}
    lora = {"up": torch.ones(4, 2), "down": torch.ones(2, 4)}
    lora = {f"lora_unet_one.lora_{part}.weight": tensor for part, tensor in lora.items()}
    save_file(tensors | lora, path)


def of_a_known_tool(path: Path) -> None:
    tensors = {f"mystery_{i}": torch.ones(2) for i in range(9)}
    software = {"software": json.dumps({"name": "ai-toolkit"})}
    save_file(tensors, path, software)


def infinite_checkpoint(path: Path) -> None:
    tensors = load_file(GOOD_CHECKPOINT)
    for key, tensor in tensors.items():
        if key.endswith("attn.qkv.weight"):
            tensor[0, 0] = np.inf
    save_file(tensors, path)


def no_checkpoint(path: Path) -> None:
    save_file({"some.weight": torch.zeros(3)}, path)


def _lora(path: Path, modules: dict[str, tuple[int, int]]) -> None:
    tensors = {}
    for name, (m, n) in modules.items():
        tensors[f"{name}.lora_up.weight"] = torch.ones(m, 4)
        tensors[f"{name}.lora_down.weight"] = torch.ones(4, n)
    save_file(tensors, path)


def _with_header(path: Path, header: bytes, data: bytes) -> None:
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


def _module(path: Path, **shapes: tuple[int, ...]) -> None:
    """A file of one module, for a weight of 576 x 192."""
    name = "lora_unet_joint_blocks_0_x_block_attn_qkv"
    save_file({f"{name}.{part}": torch.ones(shape) for part, shape in shapes.items()}, path)
