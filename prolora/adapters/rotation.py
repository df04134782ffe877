"""What OFT and BOFT share: the weight is multiplied by rotations, delta = (R - I) W.

R is a product of block-diagonal rotations. Neither R nor R W is formed: where R is near I, R W - W
would be rounding. Each block is kept as R - I, and the change is carried beside the weight.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import ProLoRAError
from .dense import DenseAdapter


@dataclass(frozen=True)
class Rotation:
    """One block-diagonal rotation of the rows of a matrix.

    Attributes:
        blocks: k x b x b, float32, R - I of each block; with k = 1 one serves every b rows.
        order: the row at each place of the blocks, of all rows or of some, the others of which
            stay as they are; None where they lie as the rows do.
    """

    blocks: torch.Tensor
    order: torch.Tensor | None = None

    def change(self, rows: torch.Tensor) -> torch.Tensor:
        """(R - I) @ rows."""
        if self.order is None:
            return self._turned(rows)
        order = self.order.to(rows.device)
        change = torch.zeros_like(rows)
        change[order] = self._turned(rows[order])
        return change

    def transposed(self) -> "Rotation":
        """R^T."""
        return Rotation(self.blocks.mT, self.order)

    def _turned(self, rows: torch.Tensor) -> torch.Tensor:
        in_blocks = rows.reshape(-1, self.blocks.shape[-1], rows.shape[1])
        return (self.blocks.to(rows) @ in_blocks).reshape(rows.shape)


@dataclass(frozen=True)
class RotationAdapter(DenseAdapter):
    """The update of one module: delta = s (R - I) W + (s - 1) W.

    Attributes:
        rotations: the factors of R, the first applied first.
        size: the side of R; None for one block that is shared by as many as fit.
        on_inputs: R turns the columns of the weight, W R^T, instead of its rows, R W.
        rescale: s, m x 1, float64; None for 1.
        transposed_on_conv: R^T takes the place of R where the weight is a convolution's.
    """

    name: str
    rotations: tuple[Rotation, ...]
    size: int | None
    on_inputs: bool
    rescale: torch.Tensor | None = None
    transposed_on_conv: bool = False
    note: str = ""

    @property
    def delta_shape(self) -> tuple[int | None, int | None]:
        if not self.on_inputs:
            return self.size, None
        return None if self.rescale is None else len(self.rescale), self.size

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        """See DenseAdapter.

        Raises:
            ProLoRAError: the blocks or the scale do not divide the weight.
        """
        matrix = weight.flatten(start_dim=1)
        self._check(weight, matrix)
        rows = matrix.T if self.on_inputs else matrix
        change = torch.zeros_like(rows)
        for rotation in self.rotations:
            if self.transposed_on_conv and weight.ndim > 2:
                rotation = rotation.transposed()
            change = change + rotation.change(rows + change)
        delta = change.T if self.on_inputs else change
        if self.rescale is None:
            return delta
        return self.rescale.to(matrix) * delta + (self.rescale - 1).to(matrix) * matrix

    def _check(self, weight: torch.Tensor, matrix: torch.Tensor) -> None:
        block = self.rotations[0].blocks.shape[-1]
        sides = zip(self.delta_shape, matrix.shape, strict=True)
        fits = all(wanted in (None, side) for wanted, side in sides)
        if fits and matrix.shape[self.on_inputs] % block == 0:
            return
        turned = "inputs" if self.on_inputs else "outputs"
        count = "any number" if self.size is None else str(self.size // block)
        scaled = "" if self.rescale is None else f" and scales {len(self.rescale)} outputs"
        raise ProLoRAError(
            f"The {self.family} of the module {self.name} turns the {turned} in {count} of blocks "
            f"of {block}{scaled}, which does not fit the weight of shape {list(weight.shape)}. "
            "Choose the checkpoint that it was trained on."
        )


def skew(blocks: torch.Tensor) -> torch.Tensor:
    """A - A^T, float64."""
    blocks = blocks.double()
    return blocks - blocks.mT


def limited(Q: torch.Tensor, limit: float, dims: Sequence[int] | None = None) -> torch.Tensor:
    """Q, scaled down where its Frobenius norm is above the limit.

    Args:
        dims: the sides of what has one norm; None for all of them.
    """
    norm = torch.linalg.vector_norm(Q, dim=dims, keepdim=True)
    return torch.where(norm > limit, Q * (limit / norm.clamp_min(math.ulp(0.0))), Q)


def cayley(Q: torch.Tensor) -> torch.Tensor:
    """R - I of the Cayley transform R = (I + Q)(I - Q)^-1, orthogonal for a skew Q."""
    identity = torch.eye(Q.shape[-1], dtype=Q.dtype, device=Q.device)
    half: torch.Tensor = torch.linalg.solve(identity - Q, Q)
    return 2 * half.float()


def neumann(Q: torch.Tensor, coefficients: Sequence[float]) -> torch.Tensor:
    """R - I where a series stands for the Cayley transform: c_1 Q + c_2 Q^2 + ..."""
    total, power = torch.zeros_like(Q), Q
    for coefficient in coefficients:
        total, power = total + coefficient * power, power @ Q
    return total.float()
