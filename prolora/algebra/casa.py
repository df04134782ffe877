"""Cluster-aware spectral arbitration (CASA): a LoRA made to fit a fine-tuned or distilled target.

Source: "Exploring Data-Free LoRA Transferability for Video Diffusion Models", ICML 2026, arXiv
2605.01929, and its public code (Noahwangyuchen/CASA, transfer.py at d7c8310), which is followed
where the two differ. With source = U S V^T, everything is looked at in the source's singular basis:

    lora  = U^T delta V                 what the LoRA routes from direction j to direction i
    drift = U^T (target - source) V     what the target's training routes there

    result = delta - U withdrawn V^T,   with `withdrawn`, entry by entry:

    drift                        outside the target's dominant directions: the target goes back to
                                 the source there, so that target + result = source + delta
    the smaller of the two       where both push the same way, hard, inside dominant directions: of
                                 the two, target + result has the larger one and not the sum
    0                            everywhere else: what applying delta as it is would give

What follows from that, and a user should know:

- The drift is part of the result. At strength s an s-th of it is taken back; what a cut to a rank
  drops of it stays; even delta = 0 gives an update. And the result is of full rank, however low
  delta's was.
- Clusters are made of the leading directions of a square weight, of all of another. A strong LoRA
  couples most of them to one cluster, among which nothing is taken back then.
- The result scales with the weights only while _GAP and _NORM, which are absolute, are small.
- The rules go entry by entry. The signs of singular pairs do not matter; but within equal singular
  values any basis is as good as another, and gives another result.
- So it is for the inputs or outputs that a rectangular weight has beyond its singular directions.
  The public code takes what its SVD puts there. Two random bases of them give results that differ
  by 0.17 to 0.35 of what the method changes (64 x 576, 40 x 100). Here the drift's own singular
  directions stand there, no farther from a random basis than those are from each other: the same
  on every device, and at most min(m, n) vectors in place of an n x n basis.

The public preparation scripts round U, S, V and the drift to bfloat16 and rebuild the source from
them, and the public transfer reads no alpha. Neither is followed.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from .subspace import leading_subspace, smallest_rank

_ALL = 1 - 1e-12  # of the energy of a float32 matrix: what is left is rounding
_GAP = 1e-6  # is added to a gap between singular values,
_NORM = 1e-8  # and this to a product of norms: both as published


@dataclass(frozen=True)
class Choices:
    """The settings of the method, as published.

    Attributes:
        rotation_threshold: two directions are of one cluster where the LoRA couples them by more
            than this times the gap between their singular values; also called so in the public
            code, tau in the paper.
        dominance_quantile: the share of clusters that is not dominant; q_threshold, q_dom.
        arbitration_quantile: the share of entries of one sign that is left as it is; arbitrate_q,
            q_act.
        square_energy: clusters are made of the leading directions that hold this share of a square
            weight; fixed in the public code.
    """

    rotation_threshold: float = 0.5
    dominance_quantile: float = 0.5
    arbitration_quantile: float = 0.85
    square_energy: float = 0.90

    def __post_init__(self) -> None:
        for name in ("dominance_quantile", "arbitration_quantile", "square_energy"):
            if not 0 <= (value := getattr(self, name)) <= 1:
                raise ValueError(f"{name} is {value}; it must lie between 0 and 1")


PUBLISHED = Choices()


@dataclass(frozen=True)
class Basis:
    """Directions in which an m x n update is looked at.

    Attributes:
        U: m x p, orthonormal columns; the source's left singular vectors first.
        V: n x q, orthonormal columns; the source's right singular vectors first.
        singular_values: the source's, descending; at most min(p, q).
    """

    U: torch.Tensor
    V: torch.Tensor
    singular_values: torch.Tensor


def arbitrate(
    delta: torch.Tensor,
    source: torch.Tensor,
    target: torch.Tensor,
    choices: Choices = PUBLISHED,
) -> torch.Tensor:
    """The update of the target that stands for `delta`, an update of the source; all m x n.

    It is dense: the public code cuts it to rank 32. All three of one dtype on one device.
    """
    drift = target - source
    return arbitrate_in(source_basis(source, drift), delta, drift, choices)


def source_basis(source: torch.Tensor, drift: torch.Tensor) -> Basis:
    """The source's singular directions, then those of the drift that lie outside of them."""
    leading = leading_subspace(source, _ALL)
    return Basis(
        U=torch.cat([leading.U, _outside(leading.U, drift)], dim=1),
        V=torch.cat([leading.V, _outside(leading.V, drift.T)], dim=1),
        singular_values=torch.linalg.vector_norm(source @ leading.V, dim=0),
    )


def _outside(basis: torch.Tensor, drift: torch.Tensor) -> torch.Tensor:
    if basis.shape[0] == basis.shape[1]:
        return basis[:, :0]
    return leading_subspace(drift - basis @ (basis.T @ drift), _ALL).U


def arbitrate_in(
    basis: Basis, delta: torch.Tensor, drift: torch.Tensor, choices: Choices
) -> torch.Tensor:
    """The same in a given basis, in which all of the drift (m x n, target - source) must lie."""
    if not len(basis.singular_values):
        return delta  # a source of zeros routes nothing: there is nothing to go back to
    U, V = basis.U, basis.V
    routed, drifted = U.T @ delta @ V, U.T @ drift @ V
    k = _clustered(basis, choices)
    labels = clusters(routed[:k, :k], basis.singular_values[:k], choices.rotation_threshold)
    dominant = _dominant(drifted, labels, choices.dominance_quantile)
    overloaded = _overloaded(routed, drifted, labels, dominant, choices.arbitration_quantile)
    smaller = torch.where(routed.abs() > drifted.abs(), drifted, routed)
    withdrawn = torch.where(overloaded, smaller, drifted.masked_fill(dominant, 0))
    return delta - U @ withdrawn @ V.T


def _clustered(basis: Basis, choices: Choices) -> int:
    values = basis.singular_values
    if basis.U.shape[0] != basis.V.shape[0]:
        return len(values)
    return smallest_rank(values.double().square(), choices.square_energy)


def clusters(routed: torch.Tensor, singular_values: torch.Tensor, threshold: float) -> torch.Tensor:
    """The cluster of each of k directions (int64): connected components of the couplings.

    Args:
        routed: k x k, the LoRA's.
    """
    gaps = (singular_values[:, None] - singular_values).abs() + _GAP
    coupled = csr_array((routed.abs() / gaps > threshold).cpu().numpy())
    _, labels = connected_components(coupled, directed=False)
    return torch.from_numpy(labels).to(routed.device, torch.int64)


def _dominant(drifted: torch.Tensor, labels: torch.Tensor, quantile: float) -> torch.Tensor:
    """Which entries (p x q, bool) receive or send by a cluster where the drift is dense."""
    k = len(labels)
    dominant = torch.zeros_like(drifted, dtype=torch.bool)
    dominant[:k] = _dense(drifted[:k, :k], labels, quantile)[:, None]
    dominant[:, :k] |= _dense(drifted[:k, :k].T, labels, quantile)
    return dominant


def _dense(drifted: torch.Tensor, labels: torch.Tensor, quantile: float) -> torch.Tensor:
    """Which of k rows (bool) are of a cluster whose mean row norm reaches the quantile."""
    norms = torch.linalg.vector_norm(drifted, dim=1)
    densities = _by_cluster(norms, labels) / torch.bincount(labels)
    return (densities >= _quantile(densities, quantile, math.ceil))[labels]


def _overloaded(
    routed: torch.Tensor,
    drifted: torch.Tensor,
    labels: torch.Tensor,
    dominant: torch.Tensor,
    quantile: float,
) -> torch.Tensor:
    """Which dominant entries (bool) both push the same way, harder than the quantile."""
    k = len(labels)
    same_way = dominant & (routed.sign() == drifted.sign())
    score = routed * drifted
    score[:k, :k] *= _agreement(routed[:k, :k], drifted[:k, :k], labels)
    candidates = score[same_way]
    if not len(candidates):
        return same_way
    return same_way & (score > _quantile(candidates, quantile, math.floor))


def _agreement(routed: torch.Tensor, drifted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cosine between the two in each pair of clusters, at each of its entries (k x k)."""
    product = _by_block(routed * drifted, labels)
    norm, drift_norm = (_by_block(side.square(), labels).sqrt() for side in (routed, drifted))
    return (product / (norm * drift_norm + _NORM))[labels][:, labels]


def _by_cluster(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum of each cluster's rows."""
    sums = rows.new_zeros((int(labels.max()) + 1, *rows.shape[1:]))
    return sums.index_add_(0, labels, rows)


def _by_block(matrix: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum over each pair of clusters."""
    return _by_cluster(_by_cluster(matrix, labels).T, labels).T


def _quantile(values: torch.Tensor, share: float, towards: Callable[[float], int]) -> torch.Tensor:
    """The value at this share of the ascending order, or its neighbour above or below.

    An interpolated one between the two would part the values at the same place. torch's own refuses
    more than 16 million values; the public code draws 10 million at random then.
    """
    position = towards(round(share * (len(values) - 1), 6))  # 0.55 * 100 is above 55
    return torch.kthvalue(values, position + 1).values
