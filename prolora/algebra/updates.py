"""Updates of a weight: a low-rank one, of which not even delta is formed, and a dense one.

Both move by terms (see maps.py), and know nothing of subspaces.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .effective_rank import smallest_rank
from .maps import SideMap, Term

KEPT = 0.99  # of the energy, where no rank was chosen
_BLOCK = 2048  # columns or rows of a dense update that are mapped at a time
# A squared singular value below this share of the largest is rounding of the Gram matrix.
_ROUNDING = 1e-15


class Update(Protocol):
    """An m x n update of a weight."""

    def apply(self, terms: Sequence[Term]) -> "Update":
        """The update that it becomes: the sum of the terms, m_t x n_t.

        Args:
            terms: one or more, in the dtype and on the device of the update.
        """

    @property
    def delta(self) -> torch.Tensor:
        """The m x n matrix."""

    @property
    def numbers(self) -> torch.Tensor:
        """All that it is made of, in one row."""

    def rows(self, start: int, length: int) -> "Update":
        """Some of its rows: the update of a part of a fused weight."""

    def energy(self) -> float:
        """||delta||_F^2, in float64."""

    def truncate(self, rank: int) -> "Truncated":
        """The best update of at most `rank` (Eckart-Young), its factors balanced; in float64.

        Args:
            rank: 0 for the smallest one that keeps 99 % of the energy.
        """


@dataclass(frozen=True)
class LowRankUpdate:
    """A factored update `up @ down`: up m x r, down r x n, the scale already inside."""

    up: torch.Tensor
    down: torch.Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[1]

    def apply(self, terms: Sequence[Term]) -> "LowRankUpdate":
        """See Update. Of rank r for each term."""
        ups = [term.left(self.up) for term in terms]
        downs = [term.right(self.down.T).T for term in terms]
        return LowRankUpdate(torch.cat(ups, dim=1), torch.cat(downs, dim=0))

    @property
    def delta(self) -> torch.Tensor:
        return self.up @ self.down

    @property
    def numbers(self) -> torch.Tensor:
        return torch.cat([self.up.flatten(), self.down.flatten()])

    def rows(self, start: int, length: int) -> "LowRankUpdate":
        return LowRankUpdate(self.up.narrow(0, start, length), self.down)

    def energy(self) -> float:
        """See Update. The trace of (up^T up)(down down^T), both r x r: nothing large is formed."""
        up, down = self.up.double(), self.down.double()
        return max(float(((up.T @ up) * (down @ down.T)).sum()), 0.0)

    def truncate(self, rank: int) -> "Truncated":
        """See Update. QR of both factors, SVD of the small core; both sides share the values."""
        if rank and self.rank <= rank:
            return Truncated(self.balanced(), dropped=0.0)
        Q_up, R_up = torch.linalg.qr(self.up.double())
        Q_down, R_down = torch.linalg.qr(self.down.T.double())
        U, S, Vh = torch.linalg.svd(R_up @ R_down.T, full_matrices=False)
        squared = S.square()
        rank = rank or max(smallest_rank(squared, KEPT), 1)
        root = S[:rank].sqrt()
        dtype = self.up.dtype
        factors = LowRankUpdate(
            up=(Q_up @ (U[:, :rank] * root)).to(dtype),
            down=((root[:, None] * Vh[:rank]) @ Q_down.T).to(dtype),
        )
        return Truncated(factors, _share(squared[rank:], squared))

    def balanced(self) -> "LowRankUpdate":
        """The same update with both factors alike in size, so that neither leaves fp16's range.

        Each column of `up` is scaled to the norm of its row of `down`: one scale for all would
        leave large columns beside rows of nearly nothing.
        """
        up, down = self.up.double(), self.down.double()
        up_norms, down_norms = up.norm(dim=0), down.norm(dim=1)
        share = (down_norms / up_norms).sqrt()
        share[(up_norms == 0) | (down_norms == 0)] = 1
        dtype = self.up.dtype
        return LowRankUpdate((up * share).to(dtype), (down / share[:, None]).to(dtype))


@dataclass(frozen=True)
class DenseUpdate:
    """An update without a low rank, as its m x n matrix; it is truncated at the end."""

    delta: torch.Tensor

    @property
    def numbers(self) -> torch.Tensor:
        return self.delta.flatten()

    def apply(self, terms: Sequence[Term]) -> "DenseUpdate":
        """See Update. What is held beside delta and the result is a block."""
        moved = [_mapped(_mapped(self.delta, term.left).T, term.right).T for term in terms]
        return DenseUpdate(sum(moved[1:], start=moved[0]))

    def rows(self, start: int, length: int) -> "DenseUpdate":
        return DenseUpdate(self.delta.narrow(0, start, length))

    def energy(self) -> float:
        return float(torch.linalg.vector_norm(self.delta, dtype=torch.float64).square())

    def truncate(self, rank: int, energy: float | None = None) -> "Truncated":
        """See Update. From the smaller Gram matrix, as the subspaces are.

        Args:
            energy: the share to keep if the rank has room for it: the smaller rank is taken.
        """
        wide = self.delta.shape[0] <= self.delta.shape[1]
        delta = (self.delta if wide else self.delta.T).double()
        eigenvalues, eigenvectors = torch.linalg.eigh(delta @ delta.T)
        squared = eigenvalues.flip(0).clamp_min(0)
        wanted = rank or max(smallest_rank(squared, energy or KEPT), 1)
        if rank and energy:
            wanted = min(rank, max(smallest_rank(squared, energy), 1))
        present = int((squared > squared[0] * _ROUNDING).sum())
        k = max(min(wanted, present), 1)
        short = eigenvectors.flip(1)[:, :k]
        long = delta.T @ short
        up, down = (short, long.T) if wide else (long, short.T)
        dtype = self.delta.dtype
        factors = LowRankUpdate(up.to(dtype), down.to(dtype)).balanced()
        return Truncated(factors, _share(squared[k:], squared))


@dataclass(frozen=True)
class Truncated:
    """An update cut to a rank, and the share of the energy that the cut dropped."""

    factors: LowRankUpdate
    dropped: float


def _mapped(matrix: torch.Tensor, side: SideMap) -> torch.Tensor:
    return torch.cat([side(block) for block in torch.split(matrix, _BLOCK, dim=1)], dim=1)


def _share(dropped: torch.Tensor, squared: torch.Tensor) -> float:
    total = float(squared.sum())
    return float(dropped.sum()) / total if total > 0 else 0.0
