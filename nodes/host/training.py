"""Gradients through a loaded MODEL, which the host loads and runs under inference mode.

What was made under inference mode cannot be part of a computation with gradients. Nothing is
copied but the weights that such a computation uses as they are, one at a time: each is replaced by
a normal tensor of the same values, with which the host goes on afterwards.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention as attention
import comfy.model_management
import torch
from torch import nn

from .failures import memory_explained
from .recomputed import recomputed

# Gradients need the values between all layers: this many times the memory of a run without.
_MEMORY_FOR_GRADIENTS = 8


def load(model: Any, shape: Sequence[int]) -> None:
    """Loads a MODEL as the host does before sampling; it costs little where it is loaded.

    Under inference mode, because the host may move or unpatch other models for it, whose weights
    were made there.
    """
    required = model.memory_required(list(shape))
    if torch.is_grad_enabled():
        required *= _MEMORY_FOR_GRADIENTS
    outside = not torch.is_inference_mode_enabled()
    with torch.inference_mode():
        comfy.model_management.load_models_gpu([model], memory_required=required)
    if outside:
        _make_normal(model.model, model.load_device)


@contextmanager
def trainable(model: Any, shape: Sequence[int] = (1, 4, 64, 64)) -> Iterator[None]:
    """Inside, gradients flow through the MODEL to what its layers were given.

    Its own weights get none, and their values stay what they are. Afterwards the MODEL samples as
    before.

    Args:
        model: the host's; a Network of it may be made before.
        shape: of the latents, to make room for.

    Raises:
        ProLoRAError: the memory does not suffice, here or in the block.
    """
    module = model.model
    modes = {part: part.training for part in module.modules()}
    with memory_explained(), torch.inference_mode(False), torch.enable_grad():
        load(model, shape)
        try:
            for part in module.modules():
                # Nothing drops out here: it makes fp8 layers of 0.3.64 compute with gradients.
                part.training = _casts(part) and not list(part.children())
            with _host_in_training(), recomputed(filter(_casts, module.modules())):
                yield
        finally:
            for part, mode in modes.items():
                part.training = mode


def as_normal(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a copy that can be part of a computation with gradients, if one is made."""
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        return tensor.clone()
    return tensor


def attention_with_gradients() -> dict[str, Any]:
    """What makes the host's models use torch's attention: not all others have gradients.

    A host from June 2024 knows no such option, and no attention without gradients.
    """

    def by_torch(_: Any, *args: Any, **kwargs: Any) -> Any:
        return attention.attention_pytorch(*args, **kwargs)

    return {"optimized_attention_override": by_torch}


def _casts(part: nn.Module) -> bool:
    """Whether a layer makes its weight anew whenever it is used: of another type or place."""
    weight = getattr(part, "weight", None)
    plain = type(weight) in (nn.Parameter, torch.Tensor) or not isinstance(weight, torch.Tensor)
    return not plain or bool(getattr(part, "comfy_cast_weights", False))


def _make_normal(module: nn.Module, device: torch.device) -> None:
    """Replaces what was made under inference mode: weights, buffers and other tensors.

    A weight that lies elsewhere than on the device is copied when it is used, so it stays: it may
    be pinned or mapped from its file.
    """
    for part in module.modules():
        if hasattr(part, "_v"):  # dynamic VRAM of 0.33.0 copies all that the layer has, at use
            part._v_signature = None  # also where it has a copy of an earlier prompt
            continue
        for name, parameter in part._parameters.items():
            fresh = _replacement(parameter, device)
            if fresh is not None:
                part._parameters[name] = nn.Parameter(fresh, requires_grad=False)
            elif parameter is not None and parameter.requires_grad:  # June 2024 leaves it on
                parameter.requires_grad_(False)
        for tensors in (part._buffers, vars(part)):
            for name, tensor in list(tensors.items()):
                fresh = _replacement(tensor, device) if isinstance(tensor, torch.Tensor) else None
                if fresh is not None:
                    tensors[name] = fresh


def _replacement(tensor: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    if tensor is None or not tensor.is_inference() or tensor.device.type != device.type:
        return None
    fresh = tensor.detach().clone()
    # ComfyUI-GGUF's weights clone to themselves; they too are made anew whenever they are used.
    return None if fresh.is_inference() else fresh


@contextmanager
def _host_in_training() -> Iterator[None]:
    """Tells 0.33.0's models to compute with gradients: without, some write over their inputs."""
    management = comfy.model_management
    if not hasattr(management, "in_training"):
        yield
        return
    before, management.in_training = management.in_training, True
    try:
        yield
    finally:
        management.in_training = before
