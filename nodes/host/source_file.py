"""A source file as the core's Model: it is read but never loaded, and ComfyUI explains its keys.

ComfyUI loads a file with comfy.sd.load_state_dict_guess_config. If that does not know the
architecture, it uses load_diffusion_model_state_dict, which also knows diffusers' names. This file
follows both with the host's own functions, on tensors that are read when they are looked at.
"""

import inspect
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.lora
import comfy.model_detection
import comfy.utils
import torch

from ...prolora.errors import ProLoRAError
from ...prolora.files.safetensors import open_safetensors
from ...prolora.models.converted import Convert, ConvertedWeights, Tensors
from ...prolora.models.key_map import key_map
from ...prolora.models.model import Model
from ...prolora.models.quantised import QUANT_MARK, UNMARKED, marks_in, refuse_files_without_weights
from ...prolora.models.weights import StateDictWeights
from .key_map import host_model

_UNET = "diffusion_model."  # what a loaded model's keys begin with
# What lies beside a quantised weight.
_SCALES = tuple(f".{part}" for part in (QUANT_MARK, *UNMARKED))


@dataclass(frozen=True)
class _Source:
    """A file that the host can load.

    Attributes:
        config: the host's configuration for the architecture.
        prefix: how the keys of the diffusion model begin.
        tensors: the file's tensors, by the names of the host's class.
        rename: gives the diffusion model's tensors those names.
    """

    config: Any
    prefix: str
    tensors: Tensors
    rename: Convert = dict

    def convert(self, tensors: Tensors) -> Tensors:
        """The tensors that the host would load, by the keys of a loaded model and text encoder."""
        unet = self.rename(_stripped(tensors, self.prefix))
        unet = self.config.process_unet_state_dict(unet)
        rest = {key: t for key, t in tensors.items() if not key.startswith(self.prefix)}
        text = self.config.process_clip_state_dict(dict(rest))
        if text and self.config.clip_target(rest) is None:
            text = {}
        return {f"{_UNET}{key}": tensor for key, tensor in unet.items()} | text


def model_from_file(path: Path) -> Model:
    """A Model of a checkpoint or diffusion model that is never loaded.

    A weight is read when it is used. The host detects the architecture from the shapes and builds
    the model without data; the names in that model are enough for the host's LoRA key map.

    Raises:
        ProLoRAError: the file is damaged or not safetensors, or the host does not know the model.
    """
    file = open_safetensors(path)  # refuses a damaged file with a message for artists
    metadata = file.metadata() or {}
    refuse_files_without_weights(path.name, file.keys())
    marks = marks_in(metadata, path.name)
    tensors = file.unread() | marks
    source = _recognise(path.name, tensors, metadata)
    model = _without_data(path.name, source)

    def read(keys: Collection[str]) -> Tensors:
        of_file = file.get_tensors([key for key in keys if key not in marks])
        return of_file | {key: marks[key] for key in keys if key in marks}

    weights = ConvertedWeights(tensors, source.convert, read, path.name)
    unread = weights.unread()
    unet = {key: tensor for key, tensor in unread.items() if key.startswith(_UNET)}
    names = comfy.lora.model_lora_keys_unet(model, _names_beyond(model, unet))
    text = {key: tensor for key, tensor in unread.items() if key not in unet}
    if text:  # the host only asks for the keys, which are those of a loaded text encoder
        text_model = SimpleNamespace(state_dict=lambda: text)
        names = comfy.lora.model_lora_keys_clip(text_model, names)
    return host_model(path.name, source.config, weights, names, path)


def _recognise(name: str, tensors: Tensors, metadata: dict[str, str]) -> _Source:
    """Recognises a file as the host would.

    Raises:
        ProLoRAError: the host does not know the file, or it is quantised in diffusers' names.
    """
    prefix, why = _diffusion_model_prefix(tensors), ""
    try:
        config = _detect(tensors, prefix, metadata)
        if config is not None:
            return _Source(config, prefix, tensors)
        source = _in_diffusers_names(tensors, prefix)
    except Exception as error:  # the host raises anything for a file that looks like another
        source, why = None, f" ({type(error).__name__}: {error})"
    if source is None:
        raise ProLoRAError(
            f"ComfyUI does not recognise {name} as a checkpoint or diffusion model{why}. Choose "
            "the checkpoint that the LoRA was trained on, or load it in the graph and connect its "
            "MODEL instead."
        )
    if any(key.endswith(_SCALES) for key in tensors):
        raise ProLoRAError(
            f"{name} is quantised and has diffusers' names. ComfyUI gives its weights other names "
            "and leaves their scales behind, so their values are lost. Use a version that is not "
            "quantised, or one in ComfyUI's own names."
        )
    return source


def _detect(tensors: Tensors, prefix: str, metadata: dict[str, str]) -> Any | None:
    """The host's configuration for a checkpoint; None for a checkpoint that it does not know."""
    # A quantised layer has no weight on the meta device, so no name.
    plain = {key: tensor for key, tensor in tensors.items() if not key.endswith(f".{QUANT_MARK}")}
    detect = comfy.model_detection.model_config_from_unet
    takes_metadata = "metadata" in inspect.signature(detect).parameters  # not in June 2024
    options = {"metadata": metadata} if takes_metadata else {}
    try:
        return detect(plain, prefix, **options)
    except KeyError:  # how a host from June 2024 says that it does not know this
        return None


def _in_diffusers_names(tensors: Tensors, prefix: str) -> _Source | None:
    """A transformer or UNet in diffusers' names; None for a file that is neither."""
    unet = _stripped(tensors, prefix)
    rename: Convert = _rename_transformer
    renamed = ConvertedWeights(unet, rename).unread()
    config = _detect(renamed, "", {}) if renamed else None
    if not renamed:
        config = comfy.model_detection.model_config_from_diffusers_unet(unet)
        rename = partial(_rename_unet, config)
    if config is None:
        return None
    own_names = renamed or rename(unet)
    return _Source(config, prefix, {prefix + k: t for k, t in own_names.items()}, rename)


def _rename_transformer(tensors: Tensors) -> Tensors:
    """The tensors by the host's names; none if the host does not see a transformer of diffusers."""
    if not hasattr(comfy.model_detection, "convert_diffusers_mmdit"):  # June 2024
        return {}
    return comfy.model_detection.convert_diffusers_mmdit(dict(tensors), "") or {}


def _rename_unet(config: Any, tensors: Tensors) -> Tensors:
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    return {own: tensors[theirs] for theirs, own in names.items() if theirs in tensors}


def _diffusion_model_prefix(tensors: Tensors) -> str:
    prefix = "model.diffusion_model."  # the only one that a host from June 2024 loads
    if hasattr(comfy.model_detection, "unet_prefix_from_state_dict"):
        prefix = comfy.model_detection.unet_prefix_from_state_dict(tensors)
    return prefix if any(key.startswith(prefix) for key in tensors) else ""


def _stripped(tensors: Tensors, prefix: str) -> Tensors:
    """The tensors whose keys begin with a prefix, without it."""
    return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}


def _without_data(name: str, source: _Source) -> Any:
    """The host's model on the meta device, or on the CPU if its class cannot be built there.

    On the CPU its tensors are never written, so they take no memory.

    Raises:
        ProLoRAError: the host's class cannot be built for this file.
    """
    config = source.config
    try:
        return config.get_model(dict(source.tensors), source.prefix, device=torch.device("meta"))
    except Exception:  # whatever the host's class raises
        config.unet_config["dtype"] = torch.float16
    try:
        return config.get_model(dict(source.tensors), source.prefix, device=torch.device("cpu"))
    except Exception as error:
        raise ProLoRAError(
            f"ComfyUI recognises {name} as {type(config).__name__}, but cannot build a model of "
            f"its sizes ({type(error).__name__}: {error}), so the names of its weights are not "
            "known. If ComfyUI loads it in the graph, connect its MODEL instead."
        ) from error


def _names_beyond(model: Any, weights: Tensors) -> dict[str, str]:
    """The names of weights that the host's class has no module for.

    Such weights exist because the host computes the depth of an SD3 from its width.
    """
    known = model.state_dict().keys()
    beyond = {key: tensor for key, tensor in weights.items() if key not in known}
    return {name: ref.key for name, ref in key_map(StateDictWeights(beyond)).items()}
