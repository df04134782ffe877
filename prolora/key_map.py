"""Module names of LoRA files, for a checkpoint that no host is there to explain.

ComfyUI knows the names for every architecture that it loads, and in a graph it is asked
(`nodes/host.py`). The command line has the checkpoint's own keys only. From those follow the direct
names of any architecture, and, by the tables below, the diffusers names of SD1.x, SD2.x and SDXL
with their text encoders; nothing else.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from .architectures import guess_architecture
from .weights import Model, SafetensorsWeights, Slice, WeightRef, Weights

# Where the diffusion model lies in a checkpoint: ldm and most since, some audio and video models.
# A file that holds a diffusion model alone has none of them.
UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.")

# How tools spell a module of the diffusion model, `{dotted}` and `{flat}` (dots as underscores).
DIRECT_NAMES = (
    "lora_unet_{flat}",
    "lycoris_{flat}",
    "diffusion_model.{dotted}",
    "transformer.{dotted}",
    "base_model.model.{dotted}",
    "{dotted}",
)
DIFFUSERS_NAMES = ("lora_unet_{flat}", "lycoris_{flat}", "unet.{dotted}", "{dotted}")
TEXT_ENCODER_NAMES = ("{kohya}_{flat}", "{diffusers}.{dotted}")

# ldm module -> diffusers module, for UNets with two residual blocks a level (SD1.x, SD2.x, SDXL).
# Each input level has three entries of input_blocks, each output level three of output_blocks.
_UNET_ROWS: tuple[tuple[str, str], ...] = (
    (r"input_blocks\.0\.0", "conv_in"),
    (r"out\.2", "conv_out"),
    (r"time_embed\.0", "time_embedding.linear_1"),
    (r"time_embed\.2", "time_embedding.linear_2"),
    (r"label_emb\.0\.0", "add_embedding.linear_1"),
    (r"label_emb\.0\.2", "add_embedding.linear_2"),
    (r"input_blocks\.(?P<n>\d+)\.0\.op", "down_blocks.{level}.downsamplers.0.conv"),
    (r"input_blocks\.(?P<n>\d+)\.0\.(?P<rest>.+)", "down_blocks.{level}.resnets.{index}.{rest}"),
    (r"input_blocks\.(?P<n>\d+)\.1\.(?P<rest>.+)", "down_blocks.{level}.attentions.{index}.{rest}"),
    (r"middle_block\.0\.(?P<rest>.+)", "mid_block.resnets.0.{rest}"),
    (r"middle_block\.1\.(?P<rest>.+)", "mid_block.attentions.0.{rest}"),
    (r"middle_block\.2\.(?P<rest>.+)", "mid_block.resnets.1.{rest}"),
    (r"output_blocks\.(?P<n>\d+)\.[12]\.conv", "up_blocks.{level}.upsamplers.0.conv"),
    (r"output_blocks\.(?P<n>\d+)\.0\.(?P<rest>.+)", "up_blocks.{level}.resnets.{index}.{rest}"),
    (r"output_blocks\.(?P<n>\d+)\.1\.(?P<rest>.+)", "up_blocks.{level}.attentions.{index}.{rest}"),
)
_RESNET_NAMES = {
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}

# Where text encoders lie in a checkpoint, and how kohya's and diffusers' names begin for them; the
# first one of any model goes by lora_te and lora_te1.
_TEXT_ENCODERS = (
    ("cond_stage_model.transformer.", "lora_te", "text_encoder"),
    ("cond_stage_model.transformer.", "lora_te1", "text_encoder"),
    ("conditioner.embedders.0.transformer.", "lora_te", "text_encoder"),
    ("conditioner.embedders.0.transformer.", "lora_te1", "text_encoder"),
    ("cond_stage_model.model.transformer.", "lora_te", "text_encoder"),
    ("conditioner.embedders.1.model.transformer.", "lora_te2", "text_encoder_2"),
)
# OpenCLIP's names for what the transformers library calls otherwise; its q, k and v are one weight.
_OPEN_CLIP_NAMES = {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


def load_checkpoint(path: Path) -> Model:
    """A checkpoint file as a transfer sees it; only its header is read.

    Raises:
        ProLoRAError: the file is missing, damaged, or no safetensors file.
    """
    weights = SafetensorsWeights(path)
    return Model(path.name, guess_architecture(weights), weights, key_map(weights))


def key_map(weights: Weights) -> dict[str, WeightRef]:
    """Every name under which a LoRA file may mean one of these weights."""
    prefix = next((p for p in UNET_PREFIXES if any(k.startswith(p) for k in weights)), "")
    names: dict[str, WeightRef] = {}
    for key in weights:
        shape = weights.shape(key)
        if key.startswith(prefix) and key.endswith(".weight") and len(shape) >= 2:
            module = key.removeprefix(prefix).removesuffix(".weight")
            _add(names, DIRECT_NAMES, module, WeightRef(key))
            diffusers = _unet_to_diffusers(module)
            if diffusers is not None:
                _add(names, DIFFUSERS_NAMES, diffusers, WeightRef(key))
                _add(names, DIFFUSERS_NAMES, _old_processor_name(diffusers), WeightRef(key))
        for start, kohya, library in _TEXT_ENCODERS:
            if key.startswith(start) and len(shape) == 2:
                for module, ref in _text_modules(key, key.removeprefix(start), shape):
                    _add(names, TEXT_ENCODER_NAMES, module, ref, kohya=kohya, diffusers=library)
    return names


def _add(
    names: dict[str, WeightRef],
    spellings: tuple[str, ...],
    module: str,
    ref: WeightRef,
    **values: str,
) -> None:
    for spelling in spellings:
        name = spelling.format(dotted=module, flat=module.replace(".", "_"), **values)
        names[name] = ref


def _unet_to_diffusers(module: str) -> str | None:
    for pattern, template in _UNET_ROWS:
        match = re.fullmatch(pattern, module)
        if match is None:
            continue
        found = match.groupdict()
        block = int(found.get("n", 0)) - template.startswith("down_blocks")  # 0 is conv_in
        level, index = divmod(block, 3)
        rest = found.get("rest", "")
        return template.format(level=level, index=index, rest=_RESNET_NAMES.get(rest, rest))
    return None


def _old_processor_name(module: str) -> str:
    """How diffusers before 0.20 called attention projections: `...attn1.processor.to_out`."""
    return module.replace(".to_", ".processor.to_").replace(".to_out.0", ".to_out")


def _text_modules(key: str, rest: str, shape: tuple[int, ...]) -> Iterator[tuple[str, WeightRef]]:
    """The modules, in the names of the transformers library, that one weight of CLIP holds."""
    if rest.startswith("text_model.encoder.layers.") and rest.endswith(".weight"):
        yield rest.removesuffix(".weight"), WeightRef(key)
    match = re.fullmatch(r"resblocks\.(\d+)\.(.+?)[._]weight", rest)
    if match is None:
        return
    layer = f"text_model.encoder.layers.{match[1]}"
    if match[2] == "attn.in_proj":
        width = shape[0] // 3
        for position, projection in enumerate(("q_proj", "k_proj", "v_proj")):
            ref = WeightRef(key, Slice(dim=0, start=position * width, length=width))
            yield f"{layer}.self_attn.{projection}", ref
    elif match[2] in _OPEN_CLIP_NAMES:
        yield f"{layer}.{_OPEN_CLIP_NAMES[match[2]]}", WeightRef(key)
