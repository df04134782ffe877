"""What the families share that become a LoRA: how they are renamed, kept as they are and moved."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch

from ..algebra.updates import DenseUpdate, Update
from ..errors import ProLoRAError
from .adapter import Retargeted
from .lora import moved_lora
from .writing import HELD

# Roles whose tensors have the kernel's axes at their end, where the weight is a convolution's.
_WITH_KERNEL = ("lokr_w2",)
_CORES = ("hada_t1", "hada_t2", "lokr_t2", "glora_bm")


@dataclass(frozen=True)
class DenseAdapter(ABC):
    """A family whose update becomes a LoRA; it is formed as an m x n matrix unless it has a rank.

    Attributes:
        parts: what the file has of it, by role.
    """

    parts: Mapping[str, torch.Tensor] = field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    name: str
    family: ClassVar[str]
    note = ""
    reshape: ClassVar[tuple[int, ...]] = ()
    is_divisible = True
    has_divisible_rows = True

    @property
    def rank(self) -> int:
        """See Adapter."""
        return 0

    @property
    @abstractmethod
    def delta_shape(self) -> tuple[int | None, int | None]: ...

    @abstractmethod
    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """What it adds to the weight that it was trained on, its scale inside.

        Args:
            weight: in its own shape, in the dtype and on the device to compute in.

        Returns:
            Of the weight's shape, or m x n.
        """

    def of_rows(self, start: int, length: int) -> "DenseAdapter":
        """See Adapter: its update is all that retarget looks at."""
        return self

    def kept_for(self, shape: tuple[int, ...]) -> "DenseAdapter | None":
        """See Adapter."""
        if not self.parts or not self.parts.keys() <= HELD:
            return None
        if any(role in self.parts for role in _CORES):  # which only convolutions have
            return self if len(shape) > 2 else None
        ones = (1,) * len(shape[2:])
        moved = {
            role: part.reshape(*part.shape[:2], *ones)
            for role, part in self.parts.items()
            if role in _WITH_KERNEL and (part.ndim > 2) != (len(shape) > 2)
        }
        return replace(self, parts={**self.parts, **moved})

    def renamed(self, name: str) -> "DenseAdapter":
        """See Adapter."""
        return replace(self, name=name)

    def update(self, weight: torch.Tensor) -> Update:
        return DenseUpdate(self.delta(weight).to(weight).flatten(start_dim=1))

    def retarget(
        self, update: Update, rank: int, source: torch.Tensor, target: torch.Tensor
    ) -> Retargeted:
        return moved_lora(self.name, update, rank or self.rank, tuple(target.shape[1:]))

    def tensors(self) -> dict[str, torch.Tensor]:
        if self.parts and self.parts.keys() <= HELD:
            return dict(self.parts)
        raise ProLoRAError(
            f"The module {self.name} is {self.family}, which ProLoRA reads but does not write. "
            "Transfer it first, or save it with ComfyUI's own Save LoRA node."
        )
