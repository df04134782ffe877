"""The leading subspaces of weights, as exactly as float32 weights have them.

The contract, on any device: the rank is that of float64; the projector onto the subspace is off by
1e-5 of its norm at most at energies up to 0.95, and Phi by less than 1e-4.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from .decomposition import decompose
from .single_precision import decompose_single
from .subspace import Subspace

_NEVER_CLEAR = 0.99  # an energy from which on float32 is not even tried
# A shorter side below which float64 takes next to no time. The errors of float32 are estimated as
# averages over many pairs of vectors: of 30,000 cuts through weights of a side of 13 to which the
# estimate gave 1e-5 at most, 243 were off by more (4.4e-5 was the most), with 40 one of 340, with
# 100 one of 870, with 200 to 640 none of 2,350.
_SMALL = 256


class Decomposed(Protocol):
    """What either decomposition answers."""

    @property
    def rank(self) -> int:
        """How many singular values are not zero, as far as is known."""

    def effective_rank(self, energy: float) -> int:
        """See effective_rank."""

    def with_ties(self, k: int) -> int:
        """k, or more where equal singular values follow the k-th one."""

    def subspace(self, k: int, energy: float) -> Subspace | None:
        """The subspace of the k leading singular vectors; None where it is not certain."""

    def exact(self) -> "Decomposed":
        """The same weight in float64, of which everything is certain."""


@dataclass(frozen=True)
class SubspacePair:
    """The leading subspaces of two weights, of one rank.

    Attributes:
        source_rank, target_rank: k_s and k_t, the effective rank of either weight by itself.
    """

    source: Subspace
    target: Subspace
    source_rank: int
    target_rank: int


def leading_subspace(weight: torch.Tensor, energy: float) -> Subspace:
    """The subspace of an m x n weight that holds `energy` of it.

    Args:
        energy: in (0, 1); at 1 a square full-rank weight would have no null space left.
    """
    found = decomposed([weight], energy)[0]
    while True:
        subspace = found.subspace(found.effective_rank(energy), energy)
        if subspace is not None:
            return subspace
        found = found.exact()


def common_subspaces(source: torch.Tensor, target: torch.Tensor, energy: float) -> SubspacePair:
    """The leading subspaces of two weights (m_s x n_s, m_t x n_t), both of one rank.

    With a rank of its own on either side, what lies between the two ranks is in the one's subspace
    and in the other's null space, and `full` drops it: the same singular vectors with k_s = 7 and
    k_t = 76 of 100 had Phi = 1 and kept 24 % of an update. At one rank they keep all of it. It is
    the larger one, so that both subspaces hold the energy. On the demo's three pairs, where k_s and
    k_t differ by 4 of 192 at most, the loss with `full` is 0.491 at the larger rank, 0.490 at the
    smaller one and 0.490 at ranks of their own; 0.414, 0.410, 0.414; 0.219, 0.225, 0.223: no
    evidence for either.

    The rank takes in ties of either weight (see effective_rank), and is never more than either
    weight has. A zero weight has no subspace, whatever the other one has.
    """
    return common_subspaces_of_many([(source, target)], energy)[0]


def common_subspaces_of_many(
    pairs: Sequence[tuple[torch.Tensor, torch.Tensor]], energy: float
) -> list[SubspacePair]:
    """The same of many pairs of weights, which are decomposed together."""
    found = deque(decomposed([weight for pair in pairs for weight in pair], energy))
    return [_common(found.popleft(), found.popleft(), energy) for _ in pairs]


def _common(source: Decomposed, target: Decomposed, energy: float) -> SubspacePair:
    while True:
        own = source.effective_rank(energy), target.effective_rank(energy)
        ranks = own if 0 in own else (_common_rank(source, target, max(own)),) * 2
        ours, theirs = source.subspace(ranks[0], energy), target.subspace(ranks[1], energy)
        if ours is not None and theirs is not None:
            return SubspacePair(ours, theirs, *own)
        source = source if ours is not None else source.exact()
        target = target if theirs is not None else target.exact()


def _common_rank(source: Decomposed, target: Decomposed, k: int) -> int:
    before = 0
    while k != before:
        before = k
        k = min(max(source.with_ties(k), target.with_ties(k)), source.rank, target.rank)
    return k


def bytes_at_work(shape: Sequence[int]) -> int:
    """About what a weight, its Gram matrix and its bases take in float32 while it is decomposed.

    It is twice as much where float64 is needed, which is rare.

    Args:
        shape: of an m x n weight, or of a convolution.
    """
    m, n = shape[0], math.prod(shape[1:])
    return 6 * m * n + 24 * min(m, n) ** 2


def decomposed(weights: Sequence[torch.Tensor], energy: float) -> list[Decomposed]:
    """M x n weights (a convolution is out x (in * kh * kw)), as exactly as an energy needs them."""
    if not 0 < energy < 1:
        raise ValueError(f"energy is {energy}; it must lie between 0 and 1, both excluded")
    able = [i for i, weight in enumerate(weights) if _suits_float32(weight, energy)]
    found: dict[int, Decomposed] = {}
    found |= dict(zip(able, decompose_single([weights[i] for i in able]), strict=True))
    return [found[i] if i in found else decompose(w) for i, w in enumerate(weights)]


def _suits_float32(weight: torch.Tensor, energy: float) -> bool:
    """Whether it is tried there."""
    large = min(weight.shape) >= _SMALL
    return large and weight.dtype != torch.float64 and energy <= _NEVER_CLEAR
