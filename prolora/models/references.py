"""Where a weight lies in a model: its key, and the part of it that is meant."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Slice:
    """A part of a fused weight, as q, k and v lie in one qkv weight."""

    dim: int
    start: int
    length: int


@dataclass(frozen=True)
class WeightRef:
    """Where the weight of a LoRA module lies.

    Attributes:
        key: the weight's own key.
        part: the slice of it, for a fused weight.
        reorder: brings its rows into the order that the LoRA was trained in, where a host's model
            stores them in another (diffusers swaps scale and shift).
    """

    key: str
    part: Slice | None = None
    reorder: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __str__(self) -> str:
        if self.part is None:
            return self.key
        end = self.part.start + self.part.length
        return f"{self.key}[{':, ' * self.part.dim}{self.part.start}:{end}]"
