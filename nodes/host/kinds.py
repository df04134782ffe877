"""What the host's types of links are: whether a value is one of them.

By what is asked of it, not by its class: packs have MODELs and CLIPs of classes of their own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch


def _is_model(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("model", "patches", "clone", "model_state_dict"))


def _is_clip(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("patcher", "cond_stage_model", "tokenize"))


def _is_conditioning(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_condition, value))


def _is_condition(entry: Any) -> bool:
    if not isinstance(entry, list | tuple) or len(entry) != 2:
        return False
    embedding, others = entry
    return isinstance(embedding, torch.Tensor | None) and isinstance(others, dict)


def _is_latent(value: Any) -> bool:
    return isinstance(value, Mapping) and hasattr(value.get("samples"), "shape")


def _is_sigmas(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.ndim == 1


def _is_lora(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and isinstance(tensor, torch.Tensor) for key, tensor in value.items()
    )


def _is_stack(value: Any) -> bool:
    return hasattr(value, "__iter__") and not isinstance(value, str | Mapping | torch.Tensor)


KINDS: Mapping[str, Callable[[Any], bool]] = {
    "MODEL": _is_model,
    "CLIP": _is_clip,
    "CONDITIONING": _is_conditioning,
    "LATENT": _is_latent,
    "SIGMAS": _is_sigmas,
    "LORA_MODEL": _is_lora,
    "LORA_STACK": _is_stack,
}
