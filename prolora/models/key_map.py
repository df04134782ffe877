"""Module names of LoRA files, for a checkpoint that no host is there to explain.

ComfyUI knows the names for every architecture that it loads, and in a graph it is asked
(`nodes/host/`). The command line has the checkpoint's own keys only. From those follow the direct
names of any architecture, and, by the tables below, the diffusers names of SD1.x, SD2.x and SDXL
with their text encoders (not of a UNet whose levels differ in size); nothing else.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from .architectures import guess_architecture
from .diffusers_folder import open_folder
from .ggml import GGUFWeights
from .model import UNET_PREFIXES, Model
from .references import Slice, WeightRef
from .unet_names import diffusers_to_ldm, ldm_to_diffusers, levels_of
from .weights import SafetensorsWeights, Weights

# How tools spell a module of the diffusion model, `{dotted}` and `{flat}` (dots as underscores).
DIRECT_NAMES = (
    "lora_unet_{flat}",
    "lycoris_{flat}",
    "diffusion_model.{dotted}",
    "transformer.{dotted}",
    "base_model.model.{dotted}",
    "{dotted}",
)
DIFFUSERS_NAMES = (*DIRECT_NAMES, "unet.{dotted}")
TEXT_ENCODER_NAMES = ("{kohya}_{flat}", "{diffusers}.{dotted}")

# Where text encoders lie in a checkpoint, and how kohya's and diffusers' names begin for them; the
# first one of any model goes by lora_te and lora_te1.
_TEXT_ENCODERS = (
    ("cond_stage_model.transformer.", "lora_te", "text_encoder"),
    ("cond_stage_model.transformer.", "lora_te1", "text_encoder"),
    ("conditioner.embedders.0.transformer.", "lora_te", "text_encoder"),
    ("conditioner.embedders.0.transformer.", "lora_te1", "text_encoder"),
    ("cond_stage_model.model.transformer.", "lora_te", "text_encoder"),
    ("cond_stage_model.model.transformer.", "lora_te1", "text_encoder"),
    ("conditioner.embedders.1.model.transformer.", "lora_te2", "text_encoder_2"),
    ("text_encoder/", "lora_te", "text_encoder"),
    ("text_encoder/", "lora_te1", "text_encoder"),
    ("text_encoder_2/", "lora_te2", "text_encoder_2"),
)
# OpenCLIP's names for what the transformers library calls otherwise; its q, k and v are one weight.
_OPEN_CLIP_NAMES = {
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


# For a LoRA none of whose names is found.
_WITHOUT_COMFYUI = (
    "Without ComfyUI, ProLoRA knows a module by the checkpoint's own name for it, and those of "
    "SD1.x, SD2.x and SDXL by diffusers' names too; in a graph, ComfyUI knows the others."
)


def load_checkpoint(path: Path) -> Model:
    """A checkpoint as a transfer sees it; only its header is read.

    Args:
        path: a .safetensors file, a .gguf file, or a folder of diffusers or of one of its models.

    Raises:
        ProLoRAError: it is missing, damaged, of another kind, or quantised in a form that is not
            known.
    """
    weights = _open(path)
    name = path.absolute().name
    architecture = guess_architecture(weights)
    names, paths = key_map(weights), ldm_paths(weights)
    return Model(name, architecture, weights, names, _WITHOUT_COMFYUI, paths)


def _open(path: Path) -> Weights:
    if path.is_dir():
        return open_folder(path)
    if path.suffix.lower() == ".gguf":
        return GGUFWeights(path)
    return SafetensorsWeights(path)


def key_map(weights: Weights) -> dict[str, WeightRef]:
    """Every name under which a LoRA file may mean one of these weights."""
    prefix = _prefix(weights)
    levels = levels_of([key.removeprefix(prefix) for key in weights])
    names: dict[str, WeightRef] = {}
    for key in weights:
        shape = weights.shape(key)
        if key.startswith(prefix) and key.endswith(".weight"):
            module = key.removeprefix(prefix).removesuffix(".weight")
            ref = WeightRef(key)
            _add(names, DIRECT_NAMES, module, ref)
            ldm = diffusers_to_ldm(module, levels) if levels else None
            diffusers = ldm_to_diffusers(module, levels) if levels else None
            if ldm is not None:
                _add(names, DIRECT_NAMES, ldm, ref)
                diffusers = module
            if diffusers is not None:
                _add(names, DIFFUSERS_NAMES, diffusers, ref)
                _add(names, DIFFUSERS_NAMES, _old_processor_name(diffusers), ref)
        for start, kohya, library in _TEXT_ENCODERS:
            if key.startswith(start) and len(shape) == 2:
                for module, ref in _text_modules(key, key.removeprefix(start), shape):
                    _add(names, TEXT_ENCODER_NAMES, module, ref, kohya=kohya, diffusers=library)
    return names


def ldm_paths(weights: Weights) -> dict[str, str]:
    """Weight -> module by ldm's names, of a UNet that has diffusers' own; see Model.paths."""
    prefix = _prefix(weights)
    levels = levels_of([key.removeprefix(prefix) for key in weights])
    if levels is None:
        return {}
    paths = {
        key: diffusers_to_ldm(key.removeprefix(prefix).removesuffix(".weight"), levels)
        for key in weights
        if key.startswith(prefix) and key.endswith(".weight")
    }
    return {key: path for key, path in paths.items() if path is not None}


def _prefix(weights: Weights) -> str:
    return next((p for p in UNET_PREFIXES if any(k.startswith(p) for k in weights)), "")


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
