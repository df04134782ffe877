"""The small checkpoints of checkpoints.py as diffusers has them: other names, in a folder.

The names are found by walking through both layouts side by side, block by block.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from .checkpoints import SD15, SD21, SDXL

# Transformer blocks of each level.
LEVELS = {"SD1.5": (1, 1, 1, 0), "SD2.1": (1, 1, 1, 0), "SDXL": (0, 2, 10)}
CHECKPOINTS = {"SD1.5": SD15, "SD2.1": SD21, "SDXL": SDXL}

_OUTSIDE = {
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
}
_RESNET = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_OPEN_CLIP = {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
}


def _resnet(ldm: str, theirs: str) -> dict[str, str]:
    return {f"{ldm}.{a}": f"{theirs}.{b}" for a, b in _RESNET.items()}


def _places(levels: tuple[int, ...]) -> dict[str, str]:
    """ldm's name of a module, or of a block whose modules have the same names, to diffusers'."""
    names, block, last = dict(_OUTSIDE), 1, len(levels) - 1
    for level, depth in enumerate(levels):
        for i in range(2):
            names |= _resnet(f"input_blocks.{block}.0", f"down_blocks.{level}.resnets.{i}")
            if depth:
                names[f"input_blocks.{block}.1"] = f"down_blocks.{level}.attentions.{i}"
            block += 1
        if level < last:
            names[f"input_blocks.{block}.0.op"] = f"down_blocks.{level}.downsamplers.0.conv"
            block += 1
    names |= _resnet("middle_block.0", "mid_block.resnets.0")
    names["middle_block.1"] = "mid_block.attentions.0"
    names |= _resnet("middle_block.2", "mid_block.resnets.1")
    block = 0
    for level, depth in enumerate(reversed(levels)):
        for i in range(3):
            names |= _resnet(f"output_blocks.{block}.0", f"up_blocks.{level}.resnets.{i}")
            if depth:
                names[f"output_blocks.{block}.1"] = f"up_blocks.{level}.attentions.{i}"
            if i == 2 and level < last:
                sampler = 2 if depth else 1
                names[f"output_blocks.{block}.{sampler}.conv"] = (
                    f"up_blocks.{level}.upsamplers.0.conv"
                )
            block += 1
    return names


def unet_of(
    tensors: Mapping[str, torch.Tensor], levels: tuple[int, ...]
) -> dict[str, torch.Tensor]:
    """The UNet of a checkpoint under diffusers' names."""
    places = _places(levels)
    unet = {}
    for key, tensor in tensors.items():
        if key.startswith("model.diffusion_model."):
            name = key.removeprefix("model.diffusion_model.")
            module, _, part = name.rpartition(".")
            while module not in places:
                module, _, end = module.rpartition(".")
                part = f"{end}.{part}"
            unet[f"{places[module]}.{part}"] = tensor
    return unet


def _text_encoder(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    own = {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    if any(key.startswith("text_model.") for key in own):
        return own
    return dict(_from_open_clip(own))


def _from_open_clip(tensors: Mapping[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    for key, tensor in tensors.items():
        block, _, rest = key.removeprefix("transformer.").removeprefix("resblocks.").partition(".")
        layer = f"text_model.encoder.layers.{block}"
        name, _, part = rest.rpartition(".")
        if rest in ("attn.in_proj_weight", "attn.in_proj_bias"):
            for projection, rows in zip("qkv", tensor.chunk(3), strict=True):
                end = rest.removeprefix("attn.in_proj_")
                yield f"{layer}.self_attn.{projection}_proj.{end}", rows.contiguous()
        elif name in _OPEN_CLIP:
            yield f"{layer}.{_OPEN_CLIP[name]}.{part}", tensor


ENCODERS = {
    "SD1.5": {"text_encoder": "cond_stage_model.transformer."},
    "SD2.1": {"text_encoder": "cond_stage_model.model.transformer."},
    "SDXL": {
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.transformer.",
    },
}


def components_of(model: str) -> dict[str, dict[str, torch.Tensor]]:
    """Subfolder -> tensors."""
    tensors = CHECKPOINTS[model]
    encoders = {name: _text_encoder(tensors, start) for name, start in ENCODERS[model].items()}
    return {"unet": unet_of(tensors, LEVELS[model])} | encoders


def write_folder(folder: Path, model: str, shards: int = 1, variant: str = "") -> Path:
    """As diffusers saves a pipeline."""
    for name, tensors in components_of(model).items():
        stem = "diffusion_pytorch_model" if name == "unet" else "model"
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text("{}")
        if name == "unet" and shards > 1:
            write_shards(folder / name, stem, tensors, shards, variant)
        else:
            save_file(tensors, folder / name / f"{stem}{variant and '.' + variant}.safetensors")
    return folder


def write_shards(
    folder: Path, stem: str, tensors: Mapping[str, torch.Tensor], count: int, variant: str = ""
) -> Path:
    end = f"{variant and '.' + variant}.safetensors"
    places = {}
    for i in range(count):
        name = f"{stem}-{i + 1:05}-of-{count:05}{end}"
        shard = {key: tensors[key] for key in sorted(tensors)[i::count]}
        save_file(shard, folder / name)
        places |= dict.fromkeys(shard, name)
    index = folder / f"{stem}.safetensors.index{variant and '.' + variant}.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return index
