"""Where a weight lies in a model: its key, and the part of it that is meant."""

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
        halves_swapped: whether a host's model stores the two halves of its rows the other way round
            than the LoRA was trained on them (diffusers swaps scale and shift).
    """

    key: str
    part: Slice | None = None
    halves_swapped: bool = False

    def reordered(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows as they are stored in the order of training, or the other way round."""
        return swap_halves(rows) if self.halves_swapped else rows

    def narrowed(self, start: int, length: int) -> "WeightRef":
        """Some of its rows."""
        if self.part is not None and self.part.dim != 0:
            raise ValueError(f"{self} has no rows of its own")
        first = self.part.start if self.part is not None else 0
        return WeightRef(self.key, Slice(0, first + start, length))

    def __str__(self) -> str:
        if self.part is None:
            return self.key
        end = self.part.start + self.part.length
        return f"{self.key}[{':, ' * self.part.dim}{self.part.start}:{end}]"


def swap_halves(rows: torch.Tensor) -> torch.Tensor:
    """The second half of the rows, then the first: its own inverse."""
    first, second = rows.chunk(2)
    return torch.cat([second, first])
