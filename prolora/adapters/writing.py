"""Adapters as the tensors of a file."""

from collections.abc import Iterable

import torch

from ..errors import ProLoRAError
from .adapter import Adapter

FILE_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

# Role -> suffix, as kohya's trainer has it, ComfyUI and every other loader reads it.
_SUFFIXES = {
    "up": ".lora_up.weight",
    "down": ".lora_down.weight",
    "alpha": ".alpha",
    "dora_scale": ".dora_scale",
    "reshape_weight": ".reshape_weight",
    "diff": ".diff",
}


def lora_state_dict(
    adapters: Iterable[Adapter], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file, under names that every loader reads; alpha is always there.

    Raises:
        ProLoRAError: a value does not fit into `dtype` (fp16 ends at 65504).
    """
    return {
        f"{adapter.name}{_SUFFIXES[role]}": _narrow(tensor, role, dtype, adapter.name)
        for adapter in adapters
        for role, tensor in adapter.tensors().items()
    }


def _narrow(tensor: torch.Tensor, role: str, dtype: torch.dtype, module: str) -> torch.Tensor:
    if role in ("alpha", "reshape_weight"):
        return tensor
    narrowed = tensor.to(dtype)
    if not torch.isfinite(narrowed).all():
        raise ProLoRAError(
            f"The LoRA of the module {module} reaches {float(tensor.abs().max()):.3g}, which "
            f"{str(dtype).removeprefix('torch.')} cannot hold. Save it as bf16 or fp32."
        )
    return narrowed.contiguous()
