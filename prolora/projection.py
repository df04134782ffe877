"""Moving a factored update from one weight's subspaces to another's (Eq. 2 and 3 of the paper).

An update is `delta = up @ down`, up m x r and down r x n. With P = U U^T and Q = V V^T of the
leading subspaces (source s, target t), every mode has the form

    delta_t = sum over its carriers c of  c(up) @ c(down^T)^T

where a carrier is a linear map for one side, applied to the factor: neither an m x n update nor an
m x m projector is ever formed.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from .subspace import Subspace

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


# The paper's Eq. 3 is `prolora`; `full` also moves the two mixed quadrants that Eq. 2 drops.
# `copy`, the baseline, moves nothing: it needs no subspaces, and never reaches `project`.
MODES: dict[str, tuple[Carrier, ...]] = {
    "full": (carry_both,),
    "prolora": (carry_subspace, carry_null_space),
    "subspace": (carry_subspace,),
    "copy": (),
}


@dataclass(frozen=True)
class Factors:
    """A factored update `up @ down`: up m x r, down r x n, the scale already inside."""

    up: torch.Tensor
    down: torch.Tensor

    @property
    def rank(self) -> int:
        return self.up.shape[1]


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


@dataclass(frozen=True)
class Cut:
    """A recompressed update, and the share of the energy that the cut dropped."""

    factors: Factors
    dropped: float


def project(update: Factors, source: Subspace, target: Subspace, mode: str) -> Factors:
    """Moves an update to the target's subspaces: Eq. 3 and its variants.

    Args:
        update: of rank r, in the dtype and on the device of the subspaces.
        mode: a key of MODES other than "copy".

    Returns:
        Factors of rank r for each carrier of the mode: r, or 2r for `prolora`.
    """
    carriers = MODES[mode]
    ups = [carry(update.up, source.U, target.U) for carry in carriers]
    downs = [carry(update.down.T, source.V, target.V).T for carry in carriers]
    return Factors(torch.cat(ups, dim=1), torch.cat(downs, dim=0))


def quadrants(update: Factors, source: Subspace) -> Quadrants:
    """Splits the energy of an update by the source's subspaces (Eq. 2 and what it leaves out).

    ||a b||_F^2 is the trace of (a^T a)(b b^T), both r x r: nothing large is formed.
    """
    up, down_T = update.up.double(), update.down.T.double()
    U, V = source.U.double(), source.V.double()
    up_in, down_in = _inside(up, U), _inside(down_T, V)
    up_out, down_out = up - up_in, down_T - down_in
    return Quadrants(
        subspace_subspace=_energy(up_in, down_in),
        subspace_null=_energy(up_in, down_out),
        null_subspace=_energy(up_out, down_in),
        null_null=_energy(up_out, down_out),
    )


def energy(update: Factors) -> float:
    """||up @ down||_F^2, without forming the product."""
    return _energy(update.up.double(), update.down.T.double())


def _energy(up: torch.Tensor, down_T: torch.Tensor) -> float:
    return max(float(((up.T @ up) * (down_T.T @ down_T)).sum()), 0.0)


def recompress(update: Factors, rank: int) -> Cut:
    """The best update of at most `rank` (Eckart-Young), from the factors alone.

    QR of both factors, SVD of the small core, cut, the singular values shared by both sides.
    Computed in float64, returned in the update's dtype.
    """
    if update.rank <= rank:
        return Cut(update, dropped=0.0)
    Q_up, R_up = torch.linalg.qr(update.up.double())
    Q_down, R_down = torch.linalg.qr(update.down.T.double())
    U, S, Vh = torch.linalg.svd(R_up @ R_down.T, full_matrices=False)
    squared = S.square()
    total = float(squared.sum())
    root = S[:rank].sqrt()
    dtype = update.up.dtype
    factors = Factors(
        up=(Q_up @ (U[:, :rank] * root)).to(dtype),
        down=((root[:, None] * Vh[:rank]) @ Q_down.T).to(dtype),
    )
    return Cut(factors, dropped=float(squared[rank:].sum()) / total if total > 0 else 0.0)


def balance(update: Factors) -> Factors:
    """The same update with both factors alike in size, so that neither leaves the range of fp16.

    Each column of `up` is scaled to the norm of its row of `down`: one scale for all would leave
    large columns beside rows of nearly nothing.
    """
    up, down = update.up.double(), update.down.double()
    up_norms, down_norms = up.norm(dim=0), down.norm(dim=1)
    share = (down_norms / up_norms).sqrt()
    share[(up_norms == 0) | (down_norms == 0)] = 1
    dtype = update.up.dtype
    return Factors((up * share).to(dtype), (down / share[:, None]).to(dtype))
