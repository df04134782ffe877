"""Moving an update from one weight's subspaces to another's (Eq. 2 and 3 of the paper).

With P = U U^T and Q = V V^T of the leading subspaces (source s, target t), every mode has the form

    delta_t = sum over its carriers c of  c(c(delta)^T)^T

where a carrier is a linear map for one side, applied to a matrix by its bases: no m x m and no
n x n projector is ever formed. What an update must answer is `Update`; the factored one, of a LoRA,
is here, and of it not even delta is formed. The dense one is in dense.py.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from .subspace import Subspace, smallest_rank

KEPT = 0.99  # of the energy, where no rank was chosen

# (factor d x r, source basis d x k_s, target basis d x k_t) -> carried factor d x r
Carrier = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _inside(factor: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    return basis @ (basis.T @ factor)


def _outside(factor: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    return factor - _inside(factor, basis)


def carry_subspace(
    factor: torch.Tensor, source: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """P_t P_s factor: what lies in the source's subspace, onto the target's."""
    return _inside(_inside(factor, source), target)


def carry_null_space(
    factor: torch.Tensor, source: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """(I - P_t)(I - P_s) factor: what lies in the source's null space, onto the target's."""
    return _outside(_outside(factor, source), target)


def carry_both(factor: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(P_t P_s + (I - P_t)(I - P_s)) factor: each part to its counterpart."""
    return carry_subspace(factor, source, target) + carry_null_space(factor, source, target)


def carry_across(factor: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """carry_both where the side has one width in both models, else U_t U_s^T of the leading ones.

    Of all linear maps from d_s to d_t, U_t U_s^+ = U_t U_s^T is the one of least norm that comes
    nearest to taking U_s to U_t in the Frobenius norm: LoRA-X (arXiv 2501.16559, sec. 4.2.2) and
    Cross-LoRA (arXiv 2508.05232) go from one width to another so. The i-th singular vector goes to
    the i-th (see widths.py for their signs), and what lies outside the leading ones is dropped.
    """
    if source.shape[0] == target.shape[0]:
        return carry_both(factor, source, target)
    k = min(source.shape[1], target.shape[1])
    return target[:, :k] @ (source[:, :k].T @ factor)


# Mode -> its carriers, for the modes that project. The paper's Eq. 3 is `prolora`; `full` also
# moves the two mixed quadrants that Eq. 2 drops. `align` is `full` that may change the width.
CARRIERS: dict[str, tuple[Carrier, ...]] = {
    "full": (carry_both,),
    "prolora": (carry_subspace, carry_null_space),
    "subspace": (carry_subspace,),
    "align": (carry_across,),
}


@dataclass(frozen=True)
class Quadrants:
    """Energies ||.||_F^2 of the four parts of an update; they add up to that of the update.

    The first word is the left side (outputs), the second the right side (inputs).
    """

    subspace_subspace: float
    subspace_null: float
    null_subspace: float
    null_null: float

    @property
    def total(self) -> float:
        return self.subspace_subspace + self.subspace_null + self.null_subspace + self.null_null


class Update(Protocol):
    """An m x n update of a weight."""

    def project(self, source: Subspace, target: Subspace, mode: str) -> "Update":
        """Moves it to the target's subspaces: Eq. 3 and its variants.

        Args:
            source, target: in the dtype and on the device of the update.
            mode: a key of CARRIERS.
        """

    @property
    def delta(self) -> torch.Tensor:
        """The m x n matrix."""

    def rows(self, start: int, length: int) -> "Update":
        """Some of its rows: the update of a part of a fused weight."""

    def quadrants(self, source: Subspace) -> Quadrants:
        """Splits its energy by the source's subspaces (Eq. 2 and what it leaves out)."""

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

    def project(self, source: Subspace, target: Subspace, mode: str) -> "LowRankUpdate":
        """See Update. Of rank r for each carrier of the mode: r, or 2r for `prolora`."""
        carriers = CARRIERS[mode]
        ups = [carry(self.up, source.U, target.U) for carry in carriers]
        downs = [carry(self.down.T, source.V, target.V).T for carry in carriers]
        return LowRankUpdate(torch.cat(ups, dim=1), torch.cat(downs, dim=0))

    @property
    def delta(self) -> torch.Tensor:
        return self.up @ self.down

    def rows(self, start: int, length: int) -> "LowRankUpdate":
        return LowRankUpdate(self.up.narrow(0, start, length), self.down)

    def quadrants(self, source: Subspace) -> Quadrants:
        up, down_T = self.up.double(), self.down.T.double()
        up_in, down_in = _inside(up, source.U.double()), _inside(down_T, source.V.double())
        up_out, down_out = up - up_in, down_T - down_in
        return Quadrants(
            subspace_subspace=_energy(up_in, down_in),
            subspace_null=_energy(up_in, down_out),
            null_subspace=_energy(up_out, down_in),
            null_null=_energy(up_out, down_out),
        )

    def energy(self) -> float:
        return _energy(self.up.double(), self.down.T.double())

    def truncate(self, rank: int) -> "Truncated":
        """See Update. QR of both factors, SVD of the small core; both sides share the values."""
        if rank and self.rank <= rank:
            return Truncated(self.balanced(), dropped=0.0)
        Q_up, R_up = torch.linalg.qr(self.up.double())
        Q_down, R_down = torch.linalg.qr(self.down.T.double())
        U, S, Vh = torch.linalg.svd(R_up @ R_down.T, full_matrices=False)
        squared = S.square()
        total = float(squared.sum())
        rank = rank or max(smallest_rank(squared, KEPT), 1)
        root = S[:rank].sqrt()
        dtype = self.up.dtype
        factors = LowRankUpdate(
            up=(Q_up @ (U[:, :rank] * root)).to(dtype),
            down=((root[:, None] * Vh[:rank]) @ Q_down.T).to(dtype),
        )
        return Truncated(factors, dropped=float(squared[rank:].sum()) / total if total > 0 else 0.0)

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
class Truncated:
    """An update cut to a rank, and the share of the energy that the cut dropped."""

    factors: LowRankUpdate
    dropped: float


def _energy(up: torch.Tensor, down_T: torch.Tensor) -> float:
    """||a b||_F^2 is the trace of (a^T a)(b b^T), both r x r: nothing large is formed."""
    return max(float(((up.T @ up) * (down_T.T @ down_T)).sum()), 0.0)
