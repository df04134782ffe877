"""What the families without a low rank of their own share: their delta is formed, then cut."""

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import ClassVar

import torch

from ..algebra.dense import DenseUpdate
from ..algebra.updates import Update
from ..errors import ProLoRAError
from .adapter import Retargeted
from .lora import moved_lora


class DenseAdapter(ABC):
    """A family whose update is moved as an m x n matrix, and becomes a LoRA."""

    name: str
    family: ClassVar[str]
    note = ""
    reshape: tuple[int, ...] = ()
    is_divisible = True

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

    def renamed(self, name: str) -> "DenseAdapter":
        """See Adapter."""
        return replace(self, name=name)  # type: ignore[type-var]  # every family is a dataclass

    def update(self, weight: torch.Tensor) -> Update:
        return DenseUpdate(self.delta(weight).to(weight).flatten(start_dim=1))

    def retarget(
        self, update: Update, rank: int, source: torch.Tensor, target: torch.Tensor
    ) -> Retargeted:
        return moved_lora(self.name, update, rank or self.rank, tuple(target.shape[1:]))

    def tensors(self) -> dict[str, torch.Tensor]:
        raise ProLoRAError(
            f"The module {self.name} is {self.family}, which ProLoRA reads but does not write. "
            "Transfer it first, or save it with ComfyUI's own Save LoRA node."
        )
