"""How what was moved is held until it is written: in the LoRA's own dtype, out of the heap.

The factors are computed in float32. A LoRA in fp16 has no such digits, and its result in fp32 would
be as large again as all else that a transfer needs.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from ..adapters.writing import survives
from .tasks import ModuleResult

# A tensor on the CPU -> the same, where it may stay.
Hold = Callable[[torch.Tensor], torch.Tensor]
_HALF = (torch.float16, torch.bfloat16)


def held(result: ModuleResult, dtype: torch.dtype, hold: Hold) -> ModuleResult:
    """A result as it is held.

    Args:
        dtype: of the LoRA's file.
        hold: where its tensors may stay.
    """
    if result.adapter is None:
        return result

    def own(tensor: torch.Tensor) -> torch.Tensor:
        if result.is_own:  # which may be mapped
            return tensor.cpu()
        fits = dtype in _HALF and survives(tensor, dtype)
        return hold((tensor.to(dtype) if fits else tensor).cpu())

    return replace(result, adapter=_with_tensors(result.adapter, own))


def _with_tensors(value: Any, own: Hold) -> Any:
    """A dataclass with each tensor of its fields, and of theirs, replaced."""
    if isinstance(value, torch.Tensor):
        return own(value)
    if not is_dataclass(value) or isinstance(value, type):
        return value
    changed = {
        field.name: _with_tensors(getattr(value, field.name), own)
        for field in fields(value)
        if field.init
    }
    return replace(value, **changed)
