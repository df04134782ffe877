"""Adapters as the tensors of a file."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch

from ..errors import ProLoRAError
from .factors import fold

FILE_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}

# Share of a tensor's norm that its rounding may cost: fp16 costs 5e-4 and bf16 4e-3 in their range,
# and fp16 everything of what lies below 6e-8.
_LOST = 0.02

# Role -> suffix, as kohya's trainer has it, ComfyUI and every other loader reads it.
_SUFFIXES = {
    "up": ".lora_up.weight",
    "down": ".lora_down.weight",
    "alpha": ".alpha",
    "dora_scale": ".dora_scale",
    "reshape_weight": ".reshape_weight",
    "diff": ".diff",
    "diff_b": ".diff_b",
    "w_norm": ".w_norm",
    "b_norm": ".b_norm",
    "set_weight": ".set_weight",
    # of what is written only as it was read
    "mid": ".lora_mid.weight",
    **{f"hada_{part}": f".hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")},
    **{f"lokr_{part}": f".lokr_{part}" for part in ("w1", "w1_a", "w1_b")},
    **{f"lokr_{part}": f".lokr_{part}" for part in ("w2", "w2_a", "w2_b", "t2")},
    **{f"glora_{part}": f".{part}.weight" for part in ("a1", "a2", "b1", "b2", "bm")},
}
# The roles that every loader reads, ComfyUI's of June 2024 included, and reads as they are read
# here. An OFT is not among them: its readers differ in how far alpha lets it turn.
HELD = frozenset(_SUFFIXES)
# As diffusers and PEFT have it. They keep alpha beside the tensors, so there is none here, and its
# scale is in the up. For a DoRA `diffusers` has the suffix that ComfyUI reads, `peft` has PEFT's.
_DIFFUSERS = {**_SUFFIXES, "up": ".lora_B.weight", "down": ".lora_A.weight"}
STYLES = {
    "kohya": _SUFFIXES,
    "diffusers": _DIFFUSERS,
    "peft": {**_DIFFUSERS, "dora_scale": ".lora_magnitude_vector"},
}


class Writable(Protocol):
    """An adapter, or a difference without subspaces."""

    @property
    def name(self) -> str: ...

    def tensors(self) -> dict[str, torch.Tensor]: ...


def lora_state_dict(
    adapters: Iterable[Writable], dtype: torch.dtype | None = None, style: str = "kohya"
) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file.

    Args:
        dtype: of the numbers; None for those that the adapters have.
        style: of the suffixes, a name in STYLES. kohya's is read by every loader, and has the
            alpha of what is made here; the others have none.

    Raises:
        ProLoRAError: a value does not fit into `dtype` (fp16 ends at 65504 and begins at 6e-8), or
            two modules have one name.
    """
    tensors: dict[str, torch.Tensor] = {}
    for adapter in adapters:
        for role, suffix, tensor in _styled(adapter.tensors(), style):
            key = f"{adapter.name}{suffix}"
            if key in tensors:
                raise ProLoRAError(
                    f"Two modules of this LoRA would be called {adapter.name} in the file. Choose "
                    "another naming."
                )
            tensors[key] = _narrow(tensor, role, dtype, adapter.name)
    return tensors


def _styled(
    tensors: Mapping[str, torch.Tensor], style: str
) -> Iterator[tuple[str, str, torch.Tensor]]:
    """Role, suffix, tensor."""
    suffixes, parts = STYLES[style], dict(tensors)
    if style != "kohya" and "mid" in parts:  # which no other naming has
        parts["down"] = fold(parts.pop("mid"), parts["down"])
    if style != "kohya" and {"up", "down"} <= parts.keys():
        rank = parts["down"].shape[0]
        scale = float(parts.pop("alpha", rank)) / rank
        parts["up"] = parts["up"] if scale == 1 else parts["up"].float() * scale
    for role, tensor in parts.items():
        suffix = suffixes[role]
        if suffix == ".lora_magnitude_vector":
            if tensor.shape[0] == 1 < tensor.numel():  # of the inputs, which PEFT does not have
                suffix = _SUFFIXES[role]
            else:  # out, or 1 x out x 1 x 1 for a convolution
                tensor = tensor.flatten() if tensor.ndim <= 2 else tensor.transpose(0, 1)
        yield role, suffix, tensor


def survives(tensor: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether a tensor of floats is nearly the same in another dtype."""
    narrowed = tensor.to(dtype)
    error = torch.linalg.vector_norm(narrowed.double() - tensor.double())
    return bool(error <= _LOST * torch.linalg.vector_norm(tensor.double()))


def _narrow(
    tensor: torch.Tensor, role: str, dtype: torch.dtype | None, module: str
) -> torch.Tensor:
    if role in ("alpha", "reshape_weight") or dtype is None:
        return tensor.contiguous()
    if survives(tensor, dtype):
        return tensor.to(dtype).contiguous()
    largest, name = float(tensor.abs().max()), str(dtype).removeprefix("torch.")
    if not torch.isfinite(tensor.to(dtype)).all():
        raise ProLoRAError(
            f"The LoRA of the module {module} reaches {largest:.3g}, which {name} cannot hold. "
            "Save it as bf16 or fp32."
        )
    raise ProLoRAError(
        f"The LoRA of the module {module} ({role}) goes up to {largest:.3g} only, which {name} "
        "rounds to nothing or nearly so. Save it as bf16 or fp32."
    )
