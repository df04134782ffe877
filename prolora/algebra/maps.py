"""How an update goes from one weight to another: a sum of terms, each a linear map for either side.

    delta_t = sum over the terms of  left(right(delta^T)^T)

Eq. 2 and 3 of the paper, with P = U U^T and Q = V V^T of the leading subspaces (source s, target
t), are such sums. A map is applied to the columns of a matrix by its bases: no m x m and no n x n
projector is ever formed. What an update does with terms is in updates.py; where maps come from that
are made of subspaces is here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch

# A linear map of columns: d_s x r -> d_t x r.
SideMap = Callable[[torch.Tensor], torch.Tensor]


class BasisMap(Protocol):
    __name__: str

    def __call__(
        self, columns: torch.Tensor, source: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        """Columns d_s x r, by bases d_s x k_s and d_t x k_t with orthonormal columns: d_t x r."""


# What is added up to the map of a side; apart, since modes have them in common.
Parts = tuple[BasisMap, ...]
# (basis map, columns) -> what it makes of them with the two bases of a side.
Applied = Callable[[BasisMap, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Term:
    """A map for the outputs (left, m_s to m_t) and one for the inputs (right, n_s to n_t)."""

    left: SideMap
    right: SideMap


def same(columns: torch.Tensor) -> torch.Tensor:
    """The identity."""
    return columns


def coordinates(columns: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The columns in an orthonormal basis d x k: k x r, of the energy that they have inside it."""
    return basis.T @ columns


def _inside(columns: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    return basis @ (basis.T @ columns)


def _outside(columns: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    return columns - _inside(columns, basis)


def copied_map(columns: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """The columns as they are."""
    return columns


def subspace_map(columns: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """P_t P_s columns: what lies in the source's subspace, onto the target's."""
    return _inside(_inside(columns, source), target)


def null_space_map(
    columns: torch.Tensor, source: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """(I - P_t)(I - P_s) columns: what lies in the source's null space, onto the target's."""
    return _outside(_outside(columns, source), target)


def full_map(columns: torch.Tensor, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(P_t P_s + (I - P_t)(I - P_s)) columns: each part to the same part of the target."""
    return subspace_map(columns, source, target) + null_space_map(columns, source, target)


def cross_width_map(
    columns: torch.Tensor, source: torch.Tensor, target: torch.Tensor
) -> torch.Tensor:
    """full_map where the side has one width in both models, else U_t U_s^T of the leading ones.

    Of all linear maps from d_s to d_t, U_t U_s^+ = U_t U_s^T is the one of least norm that comes
    nearest to taking U_s to U_t in the Frobenius norm: LoRA-X (arXiv 2501.16559, sec. 4.2.2) and
    Cross-LoRA (arXiv 2508.05232) go from one width to another so. The i-th singular vector goes to
    the i-th (see widths.py for their signs), and what lies outside the leading ones is dropped.
    """
    if source.shape[0] == target.shape[0]:
        return full_map(columns, source, target)
    k = min(source.shape[1], target.shape[1])
    return target[:, :k] @ (source[:, :k].T @ columns)


def terms_of(maps: Sequence[Parts], left: Applied, right: Applied) -> tuple[Term, ...]:
    """A term for each of the maps.

    Args:
        left, right: apply a basis map with the bases of the outputs, and of the inputs.
    """
    return tuple(
        Term(partial(_added, parts=parts, apply=left), partial(_added, parts=parts, apply=right))
        for parts in maps
    )


def _added(columns: torch.Tensor, parts: Parts, apply: Applied) -> torch.Tensor:
    moved = [apply(part, columns) for part in parts]
    return sum(moved[1:], start=moved[0])


# The modes that look at both weights' subspaces, each by its terms. The paper's Eq. 3 is `prolora`;
# `full` also moves the two mixed quadrants that Eq. 2 drops; `subspace` is what LoRA-X moves;
# `alike` moves all as it is, and has the subspaces for the similarity alone.
PROJECTION_MODES: dict[str, tuple[Parts, ...]] = {
    "alike": ((copied_map,),),
    "full": ((subspace_map, null_space_map),),
    "prolora": ((subspace_map,), (null_space_map,)),
    "subspace": ((subspace_map,),),
    "cross_width": ((cross_width_map,),),
}
