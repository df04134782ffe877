"""Small checkpoints under the key names of real ones: as many blocks as the names need, 8 wide.

But for the norms of text encoders, which tell the encoders apart.
"""

from collections.abc import Iterable

import torch

from .small_models import random_weight

ATTENTION = [f"{attn}.{part}" for attn in ("attn1", "attn2") for part in ("to_q", "to_k", "to_v")]
TRANSFORMER = [*ATTENTION, "attn1.to_out.0", "attn2.to_out.0", "ff.net.0.proj", "ff.net.2"]
RESNET = {"in_layers.2": 4, "emb_layers.1": 2, "out_layers.3": 4, "skip_connection": 4}


def _resnet(block: str) -> dict[str, int]:
    return {f"{block}.{module}": ndim for module, ndim in RESNET.items()}


def _attention(block: str, depth: int) -> dict[str, int]:
    inner = [f"{block}.transformer_blocks.{i}.{m}" for i in range(depth) for m in TRANSFORMER]
    return dict.fromkeys([f"{block}.proj_in", f"{block}.proj_out", *inner], 2)


def _unet(levels: Iterable[int]) -> dict[str, int]:
    """Module -> dimensions of its weight, for `levels` of so many transformer blocks each."""
    levels = list(levels)
    modules = {"input_blocks.0.0": 4, "out.2": 4, "time_embed.0": 2, "time_embed.2": 2}
    for level, depth in enumerate(levels):
        for index in range(2):
            block = f"input_blocks.{3 * level + index + 1}"
            modules |= _resnet(f"{block}.0")
            modules |= _attention(f"{block}.1", depth) if depth else {}
        if level < len(levels) - 1:
            modules[f"input_blocks.{3 * level + 3}.0.op"] = 4
    modules |= _resnet("middle_block.0") | _resnet("middle_block.2")
    modules |= _attention("middle_block.1", max(levels[-1], 1))
    for level, depth in enumerate(reversed(levels)):
        for index in range(3):
            block = f"output_blocks.{3 * level + index}"
            modules |= _resnet(f"{block}.0")
            modules |= _attention(f"{block}.1", depth) if depth else {}
        if level < len(levels) - 1:
            modules[f"output_blocks.{3 * level + 2}.{2 if depth else 1}.conv"] = 4
    return modules


def _clip(prefix: str) -> dict[str, torch.Tensor]:
    """CLIP-L as the transformers library names it."""
    layer = f"{prefix}text_model.encoder.layers.0"
    shapes = {f"self_attn.{p}_proj": (8, 8) for p in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc1": (32, 8), "mlp.fc2": (8, 32)}
    tensors = {f"{layer}.{module}.weight": random_weight(s) for module, s in shapes.items()}
    return tensors | {f"{layer}.layer_norm1.weight": random_weight((768,))}


def _open_clip(prefix: str, width: int) -> dict[str, torch.Tensor]:
    """CLIP-G and CLIP-H as OpenCLIP names it, with q, k and v in one weight."""
    layer = f"{prefix}resblocks.0"
    return {
        f"{layer}.attn.in_proj_weight": random_weight((24, 8)),
        f"{layer}.attn.out_proj.weight": random_weight((8, 8)),
        f"{layer}.mlp.c_fc.weight": random_weight((32, 8)),
        f"{layer}.mlp.c_proj.weight": random_weight((8, 32)),
        f"{layer}.ln_1.weight": random_weight((width,)),
    }


def _diffusion_model(modules: dict[str, int]) -> dict[str, torch.Tensor]:
    shapes = {2: (8, 8), 4: (8, 8, 3, 3)}
    tensors = {f"{module}.weight": random_weight(shapes[n]) for module, n in modules.items()}
    return {f"model.diffusion_model.{key}": tensor for key, tensor in tensors.items()}


VAE = {"first_stage_model.decoder.conv_in.weight": random_weight((8, 4, 3, 3))}

SD15 = _diffusion_model(_unet([1, 1, 1, 0])) | _clip("cond_stage_model.transformer.") | VAE
SD21 = _diffusion_model(_unet([1, 1, 1, 0])) | _open_clip(
    "cond_stage_model.model.transformer.", 1024
)
SDXL = (
    _diffusion_model(_unet([0, 2, 10]) | {"label_emb.0.0": 2, "label_emb.0.2": 2})
    | _clip("conditioner.embedders.0.transformer.")
    | _open_clip("conditioner.embedders.1.model.transformer.", 1280)
    | VAE
)
SD3_MODULES = [f"{side}.attn.{m}" for side in ("x_block", "context_block") for m in ("qkv", "proj")]
SD3 = _diffusion_model({f"joint_blocks.{i}.{m}": 2 for i in range(2) for m in SD3_MODULES}) | VAE
