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
