"""A checkpoint's weights under the keys that ComfyUI has for them once it has loaded it.

Files of one architecture differ: in what the diffusion model's keys begin with, in the text
encoders' names, and between the authors' modules and the diffusers library's. ComfyUI brings all to
one form when it loads a file, and names modules of LoRAs by it. So does this, without reading a
weight: `diffusion_model.` for the diffusion model, `clip_l.transformer.` and the like for encoders.
What is neither keeps its key.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

from .architectures import guess_architectures
from .library_names import Library, authors_modules, library_of
from .model import UNET
from .rearranged import Origin, RearrangedWeights
from .text_encoder_layout import text_encoder_origins
from .unet_names import diffusers_to_ldm, is_unet, levels_of
from .weights import Weights

# What a diffusion model's keys begin with in a file: in checkpoints of ldm and most since; of audio
# models; of Cosmos and Anima; in a folder of diffusers (model_folder.py); in AuraFlow's
# checkpoints. A diffusion model alone has none of them.
PREFIXES = (
    "model.diffusion_model.",
    "model.model.",
    "net.",
    "diffusion_model.",
    "unet/",
    "transformer/",
    "model.",
)
_OTHERS = ("first_stage_model.", "vae.", "vae/")

# ComfyUI's name -> that in HunyuanVideo's files and LoRAs.
HUNYUAN_VIDEO = {
    "_mod.lin.": "_mod.linear.",
    "_attn.qkv.": "_attn_qkv.",
    "_attn.proj.": "_attn_proj.",
    "mlp.0.": "mlp.fc1.",
    "mlp.2.": "mlp.fc2.",
    ".modulation.lin.": ".modulation.linear.",
}
_SCALES = ((r"(_norm|norms\.\d+)\.scale$", r"\1.weight"),)
# Pattern in a file's key -> replacement, in the order in which they are done.
_RENAMED = {
    "Flux": _SCALES,
    "Flux.2": _SCALES,
    "Chroma": _SCALES,
    "HunyuanVideo": (
        (r"(txt_in\.t_embedder|_in)\.mlp\.0\.", r"\1.in_layer."),
        (r"(txt_in\.t_embedder|_in)\.mlp\.2\.", r"\1.out_layer."),
        (r"c_embedder\.linear_1\.", "c_embedder.in_layer."),
        (r"c_embedder\.linear_2\.", "c_embedder.out_layer."),
        *((re.escape(theirs), ours) for ours, theirs in HUNYUAN_VIDEO.items()),
        (r"(_attn)_q_norm\.|(\.)q_norm\.", r"\1.norm.query_norm."),
        (r"(_attn)_k_norm\.|(\.)k_norm\.", r"\1.norm.key_norm."),
        (r"\.scale$", ".weight"),
    ),
}


def comfyui_layout(weights: Weights) -> RearrangedWeights:
    """A file's weights by ComfyUI's keys. Only keys and shapes are looked at."""
    prefix = _prefix(weights)
    origins: dict[str, tuple[Origin, ...]] = {}
    unet: dict[str, Origin] = {}
    for key in weights:
        found = list(text_encoder_origins(weights, key))
        if found:
            origins |= {ours: (origin,) for ours, origin in found}
        elif key.startswith(prefix) and not key.startswith(_OTHERS):
            unet[key.removeprefix(prefix)] = Origin(key)
        else:
            origins[key] = (Origin(key),)
    named = _by_authors_names(weights, unet)
    return RearrangedWeights(weights, {UNET + key: made for key, made in named.items()} | origins)


def _prefix(weights: Iterable[str]) -> str:
    """What most keys begin with that begin with any of them."""
    found = (next((p for p in PREFIXES if key.startswith(p)), "") for key in weights)
    counts = Counter(filter(None, found))
    return max(PREFIXES, key=lambda p: counts[p]) if counts else ""


def _by_authors_names(
    weights: Weights, unet: Mapping[str, Origin]
) -> dict[str, tuple[Origin, ...]]:
    """Of a diffusion model: the file's key -> what it is made of, by ComfyUI's keys."""
    modules = {_module(name): name for name in unet}
    architectures = guess_architectures(modules)
    rules = [rule for name in architectures for rule in _RENAMED.get(name, ())]
    levels = levels_of(unet) if is_unet(unet) else None
    made: dict[str, tuple[Origin, ...]] = {}
    for name, origin in unet.items():
        module = _module(name)
        ldm = diffusers_to_ldm(module, levels) if levels is not None else None
        renamed = name if ldm is None else ldm + name.removeprefix(module)
        for pattern, replacement in rules:
            renamed = re.sub(pattern, replacement, renamed)
        made[renamed] = (origin,)
    library = library_of(architectures)
    return _joined(weights, made, library) if library is not None else made


def _joined(
    weights: Weights, unet: Mapping[str, tuple[Origin, ...]], library: Library
) -> dict[str, tuple[Origin, ...]]:
    """The authors' weights, made of those that the diffusers library has."""
    made = dict(unet)
    shapes: dict[str, tuple[int, ...]] = {}
    for name, (origin, *_) in unet.items():
        shapes[_module(name)] = () if name.endswith(".bias") else weights.shape(origin.key)
    for module in authors_modules(library, shapes):
        for suffix in (".weight", ".bias", ""):
            theirs = [name + suffix for name in module.parts]
            if all(name in made for name in theirs):
                origins = [origin for name in theirs for origin in made.pop(name)]
                swapped = module.halves_swapped
                made[module.name + suffix] = tuple(
                    replace(origin, halves_swapped=swapped) for origin in origins
                )
    return made


def _module(name: str) -> str:
    """Of a weight or bias; a lone parameter is its own."""
    return re.sub(r"\.(weight|bias)$", "", name)
