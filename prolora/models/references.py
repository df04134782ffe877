"""References to weights: a key, and the part of the weight that is meant."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Slice:
    """A part of a fused weight, such as the q, k or v of a qkv weight.

    Attributes:
        dim: the dimension that is sliced; 0 for rows (outputs).
        start, length: the slice in that dimension.
    """

    dim: int
    start: int
    length: int


@dataclass(frozen=True)
class WeightRef:
    """Where the weight of a LoRA module lies.

    Attributes:
        key: the weight's own key.
        part: the part of a fused weight; None for the whole weight.
        halves_swapped: whether the model stores the two halves of the rows in the other order than
            the LoRA was trained on (diffusers swaps scale and shift).
    """

    key: str
    part: Slice | None = None
    halves_swapped: bool = False

    def reordered(self, rows: torch.Tensor) -> torch.Tensor:
        """Stored rows in the order of training, or rows in that order as they are stored."""
        return swap_halves(rows) if self.halves_swapped else rows

    def narrowed(self, start: int, length: int) -> "WeightRef":
        """A reference to some of its rows.

        Raises:
            ValueError: the part is not one of rows.
        """
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
    """Swaps the two halves of the rows; twice is the identity."""
    first, second = rows.chunk(2)
    return torch.cat([second, first])
