"""A checkpoint or diffusion model that is read but never loaded: ComfyUI says what its keys are."""

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.lora
import comfy.model_detection
import torch

from ...prolora.errors import ProLoRAError
from ...prolora.files.safetensors import open_safetensors
from ...prolora.models.key_map import key_map
from ...prolora.models.model import Model
from ...prolora.models.quantised import marks_in, refuse_files_without_weights
from ...prolora.models.weights import StateDictWeights
from .key_map import host_model


def model_from_file(path: Path) -> Model:
    """A checkpoint that is never loaded as a model: the host says what its keys mean.

    The file is mapped into memory: a weight is read when it is used, and the system may drop it
    again. The host detects the architecture from the shapes, and builds the model on the meta
    device, where it has names but no data; that answers for the LoRA key map.

    Raises:
        ProLoRAError: the file is damaged, no safetensors file, or no model that the host knows.
    """
    with open_safetensors(path) as file:  # refuses a damaged file with a message for artists
        metadata = file.metadata() or {}
        refuse_files_without_weights(path.name, file.keys())
        state_dict = file.get_tensors(file.keys()) | marks_in(metadata)
    prefix = _diffusion_model_prefix(state_dict)
    config = _detect(state_dict, prefix, metadata)
    if config is None:
        raise ProLoRAError(
            f"ComfyUI does not recognise {path.name} as a checkpoint or diffusion model. Choose "
            "the checkpoint that the LoRA was trained on, or load it in the graph and connect its "
            "MODEL instead."
        )
    config.quant_config = None  # a quantised layer has no weight on the meta device, so no name
    try:
        model = config.get_model(state_dict, prefix, device=torch.device("meta"))
    except (TypeError, ValueError, KeyError, RuntimeError) as error:
        raise ProLoRAError(
            f"ComfyUI takes {path.name} for a {type(config).__name__}, but cannot build one of its "
            f"figures ({error}). It may be newer than this ComfyUI: update it."
        ) from error
    unet = {k.removeprefix(prefix): v for k, v in state_dict.items() if k.startswith(prefix)}
    unet = config.process_unet_state_dict(unet)
    weights = {f"diffusion_model.{key}": tensor for key, tensor in unet.items()}
    names = comfy.lora.model_lora_keys_unet(model, _names_beyond(model, weights))
    if config.clip_target(state_dict) is not None:
        # Only the names are asked for, and these are the keys a loaded text encoder would have.
        text = config.process_clip_state_dict(dict(state_dict))
        text_model = SimpleNamespace(state_dict=lambda: text)
        names = comfy.lora.model_lora_keys_clip(text_model, names)
        weights |= text
    return host_model(path.name, config, StateDictWeights(weights), names)


def _names_beyond(model: Any, weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """Of weights that the host's class has no module for: it reads SD3's depth off the width."""
    known = model.state_dict().keys()
    beyond = {key: tensor for key, tensor in weights.items() if key not in known}
    return {name: ref.key for name, ref in key_map(StateDictWeights(beyond)).items()}


def _detect(
    state_dict: dict[str, torch.Tensor], prefix: str, metadata: dict[str, str]
) -> Any | None:
    """The host's configuration for a checkpoint, None for one that it does not know."""
    detect = comfy.model_detection.model_config_from_unet
    takes_metadata = "metadata" in inspect.signature(detect).parameters
    options = {"metadata": metadata} if takes_metadata else {}
    try:
        return detect(state_dict, prefix, **options)
    except KeyError:  # how a host from June 2024 says that it does not know this
        return None


def _diffusion_model_prefix(state_dict: dict[str, torch.Tensor]) -> str:
    prefix = "model.diffusion_model."  # the only one that a host from June 2024 loads
    if hasattr(comfy.model_detection, "unet_prefix_from_state_dict"):
        prefix = comfy.model_detection.unet_prefix_from_state_dict(state_dict)
    return prefix if any(key.startswith(prefix) for key in state_dict) else ""
