"""The demo's checkpoints in every quantised form, each beside its true values in float32.

The forms' arithmetic is written down anew here, from the layouts that ComfyUI loads; neither the
pack nor the host quantises anything.
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from comfy_harness.hosts import PACK_ROOT

Tensors = dict[str, torch.Tensor]
# What lies in the file for a layer, by the end of its key, and the layer's true weight.
Quantised = tuple[Tensors, torch.Tensor]

PREFIX = "model.diffusion_model."
LAYERS = tuple(
    f"{PREFIX}joint_blocks.{block}.x_block.{layer}"
    for block in (0, 1)
    for layer in ("attn.qkv", "mlp.fc1", "mlp.fc2")
)
E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
FP4 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def plain_fp8(weight: torch.Tensor, dtype: torch.dtype = E4M3) -> Quantised:
    stored = weight.to(dtype)
    return {"weight": stored}, stored.float()


def scaled(weight: torch.Tensor, part: str, dtype: torch.dtype = E4M3) -> Quantised:
    scale = weight.abs().max() / torch.finfo(dtype).max
    stored = (weight / scale).to(dtype)
    return {"weight": stored, part: scale}, stored.float() * scale


def marked(parts: Quantised, name: str) -> Quantised:
    mark = torch.tensor(list(json.dumps({"format": name}).encode()), dtype=torch.uint8)
    return parts[0] | {"comfy_quant": mark}, parts[1]


def int8(weight: torch.Tensor) -> Quantised:
    scale = weight.abs().max() / 127
    stored = (weight / scale).round().to(torch.int8)
    return {"weight": stored, "weight_scale": scale}, stored.float() * scale


def mxfp8(weight: torch.Tensor) -> Quantised:
    """Blocks of 32 share a power of two."""
    blocks = weight.reshape(len(weight), -1, 32)
    exponents = (blocks.abs().amax(dim=2) / torch.finfo(E4M3).max).log2().ceil()
    stored = (blocks / exponents.exp2().unsqueeze(2)).to(E4M3)
    parts = {
        "weight": stored.reshape(weight.shape),
        "weight_scale": in_tiles((exponents + 127).to(torch.uint8)),
    }
    return parts, (stored.float() * exponents.exp2().unsqueeze(2)).reshape(weight.shape)


def nvfp4(weight: torch.Tensor) -> Quantised:
    """Blocks of 16 share an fp8 scale; two values in a byte, the first in the high half."""
    blocks = weight.reshape(len(weight), -1, 16)
    whole = weight.abs().max() / (6 * torch.finfo(E4M3).max)
    scales = (blocks.abs().amax(dim=2) / 6 / whole).to(E4M3)
    factor = (scales.float() * whole).unsqueeze(2)
    codes = ((blocks / factor).abs().unsqueeze(3) - FP4).abs().argmin(dim=3)
    true = (FP4[codes] * blocks.sign() * factor).reshape(weight.shape)
    codes = (codes + 8 * (blocks < 0)).to(torch.uint8).reshape(weight.shape)
    parts = {
        "weight": codes[:, ::2] * 16 + codes[:, 1::2],
        "weight_scale": in_tiles(scales),
        "weight_scale_2": whole,
    }
    return parts, true


def in_tiles(scales: torch.Tensor) -> torch.Tensor:
    """Scales of rows x blocks in the tiles of 128 x 4 that cuBLAS wants, padded with zeros."""
    rows, blocks = -(-len(scales) // 128) * 128, -(-scales.shape[1] // 4) * 4
    tiled = torch.zeros(rows * blocks, dtype=torch.uint8)
    r, c = torch.meshgrid(*(torch.arange(side) for side in scales.shape), indexing="ij")
    tile = r // 128 * (blocks // 4) + c // 4
    place = tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4
    tiled[place.flatten()] = scales.flatten().view(torch.uint8)
    return tiled.reshape(rows, blocks).view(scales.dtype)


FORMS: dict[str, Callable[[torch.Tensor], Quantised]] = {
    "fp8_e4m3fn": plain_fp8,
    "fp8_e5m2": lambda weight: plain_fp8(weight, E5M2),
    "scale_weight": lambda weight: scaled(weight, "scale_weight"),
    "comfy_quant_fp8": lambda weight: marked(scaled(weight, "weight_scale"), "float8_e4m3fn"),
    "header_fp8": lambda weight: scaled(weight, "weight_scale"),
    "int8": lambda weight: marked(int8(weight), "int8_tensorwise"),
    "mxfp8": lambda weight: marked(mxfp8(weight), "mxfp8"),
    "nvfp4": lambda weight: marked(nvfp4(weight), "nvfp4"),
}
# Which of them a host loads as models: all of 2024; those of 2025; else those whose name, in
# ComfyUI's own table, the host says it has. Other hosts take the stored numbers for the values.
ALWAYS, SINCE_2025 = ("fp8_e4m3fn", "fp8_e5m2"), ("scale_weight",)
NAMES = {
    "comfy_quant_fp8": "float8_e4m3fn",
    "header_fp8": "float8_e4m3fn",
    "int8": "int8_tensorwise",
    "mxfp8": "mxfp8",
    "nvfp4": "nvfp4",
}


def write_quantised(form: str, checkpoint: str, folder: Path) -> tuple[str, str]:
    """Writes `LAYERS` of a demo checkpoint in a form, and another file of their true values."""
    stored = load_file(PACK_ROOT / "demo" / "models" / checkpoint)
    true = {key: tensor.float() for key, tensor in stored.items()}
    for layer in LAYERS:
        weight = stored.pop(f"{layer}.weight").float()
        parts, true[f"{layer}.weight"] = FORMS[form](weight)
        stored |= {f"{layer}.{part}": tensor.contiguous() for part, tensor in parts.items()}
    if form == "scale_weight":
        stored[f"{PREFIX}scaled_fp8"] = torch.zeros(2, dtype=E4M3)
    layers = {layer: {"format": "float8_e4m3fn"} for layer in LAYERS}
    header = {"_quantization_metadata": json.dumps({"format_version": "1.0", "layers": layers})}
    names = f"{form}_{checkpoint}", f"true_{form}_{checkpoint}"
    save_file(stored, folder / names[0], header if form == "header_fp8" else None)
    save_file(true, folder / names[1])
    return names


def write_lora(path: Path) -> None:
    """The demo's LoRA, of the quantised layers only."""
    names = [f"lora_unet_{layer.removeprefix(PREFIX).replace('.', '_')}." for layer in LAYERS]
    tensors = load_file(PACK_ROOT / "demo" / "models" / "emoji_style_lora.safetensors")
    kept = {key: tensor for key, tensor in tensors.items() if key.startswith(tuple(names))}
    assert len(kept) == 3 * len(LAYERS)
    save_file(kept, path)
