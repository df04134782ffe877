"""Module names of LoRA files, for a checkpoint that no host is there to explain.

ComfyUI knows the names for every architecture that it loads, and in a graph it is asked
(`nodes/host/`). Here they follow from the checkpoint's own keys, once these are in ComfyUI's form
(layout.py), and from tables of what tools call the modules otherwise. For the architectures of
docs/architectures.md both have the same names, which tests compare.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from .architectures import guess_architecture, guess_architectures
from .ggml import GGUFWeights
from .layout import HUNYUAN_VIDEO, comfyui_layout
from .library_names import LIBRARIES, LibraryName, library_names
from .model import UNET, Model
from .model_folder import open_folder
from .quantised import is_beside_a_weight
from .references import Slice, WeightRef
from .text_encoder_names import text_encoder_names
from .transformers_model import transformers_config, transformers_model
from .unet_names import Levels, is_unet, ldm_to_diffusers, levels_of
from .weights import SafetensorsWeights, Weights

# How ComfyUI spells a module, `{dotted}` and `{flat}` (dots as underscores): its own name for it,
# and by architecture the name of the diffusers library or of the model's files.
OWN_SPELLINGS = ("lora_unet_{flat}", "diffusion_model.{dotted}")
UNET_SPELLINGS = ("lora_unet_{flat}", "lycoris_{flat}", "{old}", "unet.{old}")
_FLUX = ("transformer.{dotted}", "lycoris_{flat}", "lora_transformer_{flat}", "{dotted}")
_LUMINA = ("diffusion_model.{dotted}", "transformer.{dotted}", "lycoris_{flat}", "{dotted}")
_PEFT = "base_model.model.{dotted}"
OTHER_SPELLINGS: Mapping[str, tuple[str, ...]] = {
    "SD3": ("transformer.{dotted}", _PEFT, "lora_transformer_{flat}", "lycoris_{flat}"),
    **dict.fromkeys(("Flux", "Flux.2", "Chroma"), _FLUX),
    **dict.fromkeys(("Lumina 2", "Z-Image"), _LUMINA),
    "Qwen-Image": ("{dotted}", "transformer.{dotted}", "lycoris_{flat}"),
    "HunyuanVideo": ("transformer.{dotted}", "diffusion_model.{dotted}"),
    "PixArt": ("transformer.{dotted}", _PEFT, f"unet.{_PEFT}"),
    "AuraFlow": ("transformer.{dotted}",),
}
_OWN_NAMES_ALONE = {"Wan", "Cosmos", "Anima"}  # ComfyUI knows no others

_ENCODER = re.compile(r"[^.]+\.transformer\..+\.weight")
_FOLDER = re.compile(r"(text_encoder(?:_\d)?)/(.+)\.weight")  # of an encoder that ComfyUI has not

# What a module and the shape of its weight are called otherwise.
_OtherNames = Callable[[str, tuple[int, ...]], Iterable[LibraryName]]


def load_checkpoint(path: Path) -> Model:
    """A checkpoint as a transfer sees it; only its header is read.

    Args:
        path: a .safetensors file, a .gguf file, or a folder: of diffusers or of one of its models,
            or of a model of transformers.

    Raises:
        ProLoRAError: it is missing, damaged, of another kind, or quantised in a form that is not
            known.
    """
    name, weights, config = path.absolute().name, _open(path), transformers_config(path)
    if config is None:
        return replace(model_of(name, weights), path=path)
    return replace(transformers_model(name, weights, config), path=path)


def model_of(name: str, weights: Weights) -> Model:
    """A model of the weights that a file has, under its keys."""
    weights = comfyui_layout(weights)
    modules = _modules(weights)
    architecture = guess_architecture(modules, complete=True)
    return Model(name, architecture, weights, key_map(weights), _hint(name, modules))


def _open(path: Path) -> Weights:
    if path.is_dir():
        return open_folder(path)
    if path.suffix.lower() == ".gguf":
        return GGUFWeights(path)
    return SafetensorsWeights(path)


def _hint(name: str, modules: Mapping[str, str]) -> str:
    """What to say of names that are not found; "" where ComfyUI would find no others."""
    architectures = set(guess_architectures(modules, complete=True))
    known = bool(architectures) and architectures <= OTHER_SPELLINGS.keys() | _OWN_NAMES_ALONE
    if is_unet(modules):
        known = _levels(modules) is not None
    if not modules or known:
        return ""
    return (
        f"Without ComfyUI, the modules of {name} are known by its own names for them alone; in a "
        "graph, ComfyUI may know others."
    )


def key_map(weights: Weights) -> dict[str, WeightRef]:
    """Every name under which a LoRA file may mean one of these weights.

    Of several names of one weight the last is the one whose change ComfyUI keeps.

    Args:
        weights: under ComfyUI's keys.
    """
    names: dict[str, WeightRef] = {}
    modules = _modules(weights)
    keys = {key: module for module, key in modules.items()}
    for key in weights:
        if key in keys:
            names |= dict.fromkeys(_spelled(OWN_SPELLINGS, keys[key]), WeightRef(key))
        elif key.startswith(UNET) and not is_beside_a_weight(key):
            names[key] = WeightRef(key)  # a bias, or a lone parameter
    for spellings, other_names in _other_names(modules):
        for module, key in modules.items():
            shape = weights.shape(key)
            for other in other_names(module, shape):
                part = other.part
                if part is None or part.start + part.length <= shape[0]:
                    ref = WeightRef(key, part, other.halves_swapped)
                    names |= dict.fromkeys(_spelled(spellings, other.module), ref)
    return names | _of_text_encoders(weights)


def _modules(weights: Iterable[str]) -> dict[str, str]:
    """Module of the diffusion model -> key of its weight."""
    return {
        key[len(UNET) : -len(".weight")]: key
        for key in weights
        if key.startswith(UNET) and key.endswith(".weight")
    }


def _spelled(spellings: Iterable[str], module: str) -> Iterator[str]:
    old = module.replace(".to_", ".processor.to_")  # diffusers before 0.20
    if old.endswith(".to_out.0"):
        old = old.removesuffix(".0")
    for spelling in spellings:
        yield spelling.format(dotted=module, flat=module.replace(".", "_"), old=old)


def _other_names(modules: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], _OtherNames]]:
    """Spellings, and the names that are spelled so, of all architectures that this may be."""
    if is_unet(modules):
        levels = _levels(modules)
        yield UNET_SPELLINGS, lambda module, shape: _in_a_unet(module, levels)
    found: dict[tuple[str, ...], _OtherNames] = {}
    for name in guess_architectures(modules):
        if name in OTHER_SPELLINGS:
            found[OTHER_SPELLINGS[name]] = _names_in(name)
    yield from found.items()
    if _FLUX in found:
        yield OWN_SPELLINGS[1:], _qkv_of_linear1


def _names_in(architecture: str) -> _OtherNames:
    if architecture in LIBRARIES:
        return lambda module, shape: library_names(LIBRARIES[architecture], module, shape)
    if architecture == "HunyuanVideo":
        return lambda module, shape: [LibraryName(_in_hunyuan_video(module))]
    return lambda module, shape: [LibraryName(module)]


def _levels(modules: Iterable[str]) -> Levels | None:
    return levels_of([f"{module}." for module in modules])


def _in_a_unet(module: str, levels: Levels | None) -> Iterator[LibraryName]:
    if levels is not None:
        yield from map(LibraryName, ldm_to_diffusers(module, levels))


def _in_hunyuan_video(module: str) -> str:
    name = f"{module}."
    for ours, theirs in HUNYUAN_VIDEO.items():
        name = name.replace(ours, theirs)
    return name.removesuffix(".")


def _qkv_of_linear1(module: str, shape: tuple[int, ...]) -> Iterator[LibraryName]:
    """Flux' control LoRAs and USO change the attention alone of a fused weight."""
    if module.endswith(".linear1") and len(shape) > 1:
        yield LibraryName(f"{module}_qkv", Slice(0, 0, 3 * shape[1]))


def _of_text_encoders(weights: Iterable[str]) -> dict[str, WeightRef]:
    found = {key.removesuffix(".weight"): key for key in weights if _ENCODER.fullmatch(key)}
    names = {name: WeightRef(found[module]) for name, module in text_encoder_names(found)}
    folders = (_FOLDER.fullmatch(key) for key in weights)
    kept = {f"{match[1]}.{match[2]}": WeightRef(match[0]) for match in folders if match is not None}
    return names | kept
