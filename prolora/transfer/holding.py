"""How what was moved is held until it is written: in the LoRA's own dtype, out of the heap.

The factors are computed in float32. A LoRA in fp16 has no such digits, and its result in fp32 would
be as large again as all else that a transfer needs.
"""

from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch

from ..adapters import Adapter
from ..adapters.writing import survives
from .tasks import ModuleResult

# A tensor on the CPU -> the same, where it may stay.
Hold = Callable[[torch.Tensor], torch.Tensor]
_HELD_AS_THEY_ARE = (torch.float16, torch.bfloat16)


def held(result: ModuleResult, before: Adapter, hold: Hold) -> ModuleResult:
    """A result as it is held.

    Args:
        before: the adapter that was moved.
        hold: where its tensors may stay.
    """
    if result.adapter is None or all(row.status == "copied" for row in result.rows):
        return result  # copies are what the file has, which may be mapped
    dtype = _dtype_of(before)

    def own(tensor: torch.Tensor) -> torch.Tensor:
        return hold(tensor.to(dtype) if survives(tensor, dtype) else tensor)

    return replace(result, adapter=_with_tensors(result.adapter, own))


def _dtype_of(adapter: Adapter) -> torch.dtype:
    """What the file has it in: that of its largest tensor, if that is one to write."""
    tensors = adapter.tensors().values()
    largest = max(tensors, key=torch.Tensor.numel).dtype
    return largest if largest in _HELD_AS_THEY_ARE else torch.float32


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
