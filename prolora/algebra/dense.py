"""Updates that have no low rank of their own: their m x n delta is formed, and cut at the end.

The carriers of projection.py are applied to blocks of columns, then of rows. What is held beside
delta and the result is a block, never an m x m or n x n projector.
"""

from dataclasses import dataclass

import torch

from .subspace import Subspace, smallest_rank
from .updates import CARRIERS, KEPT, Carrier, LowRankUpdate, Quadrants, Truncated

_BLOCK = 2048  # columns or rows that are carried at a time
# A squared singular value below this share of the largest is rounding of the Gram matrix.
_ROUNDING = 1e-15


@dataclass(frozen=True)
class DenseUpdate:
    """An update as an m x n matrix; see Update."""

    delta: torch.Tensor

    def project(self, source: Subspace, target: Subspace, mode: str) -> "DenseUpdate":
        shape = target.U.shape[0], target.V.shape[0]
        moved = torch.zeros(shape, dtype=self.delta.dtype, device=self.delta.device)
        for carry in CARRIERS[mode]:
            left = _carried(self.delta, carry, source.U, target.U)
            moved += _carried(left.T, carry, source.V, target.V).T
        return DenseUpdate(moved)

    def rows(self, start: int, length: int) -> "DenseUpdate":
        return DenseUpdate(self.delta.narrow(0, start, length))

    def quadrants(self, source: Subspace) -> Quadrants:
        left_in = (source.U.T @ self.delta).double()  # in the basis: k x n, of the same energy
        right_in = self.delta @ source.V
        both_in = (left_in @ source.V.double()).square().sum()
        left, right = left_in.square().sum(), right_in.double().square().sum()
        parts = (both_in, left - both_in, right - both_in, self.energy() - left - right + both_in)
        return Quadrants(*(max(float(part), 0.0) for part in parts))

    def energy(self) -> float:
        return float(torch.linalg.vector_norm(self.delta, dtype=torch.float64).square())

    def truncate(self, rank: int) -> Truncated:
        """See Update. From the smaller Gram matrix, as the subspaces are."""
        wide = self.delta.shape[0] <= self.delta.shape[1]
        delta = (self.delta if wide else self.delta.T).double()
        eigenvalues, eigenvectors = torch.linalg.eigh(delta @ delta.T)
        squared = eigenvalues.flip(0).clamp_min(0)
        wanted = rank or max(smallest_rank(squared, KEPT), 1)
        present = int((squared > squared[0] * _ROUNDING).sum())
        k = max(min(wanted, present), 1)
        short = eigenvectors.flip(1)[:, :k]
        long = delta.T @ short
        up, down = (short, long.T) if wide else (long, short.T)
        dtype = self.delta.dtype
        total = float(squared.sum())
        dropped = float(squared[k:].sum()) / total if total > 0 else 0.0
        return Truncated(LowRankUpdate(up.to(dtype), down.to(dtype)).balanced(), dropped)


def _carried(
    matrix: torch.Tensor, carry: Carrier, source: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    blocks = torch.split(matrix, _BLOCK, dim=1)
    return torch.cat([carry(block, source, target) for block in blocks], dim=1)
