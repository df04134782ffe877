"""Cluster-aware spectral arbitration (CASA): adapts a LoRA to a fine-tuned or distilled target.

Source: "Exploring Data-Free LoRA Transferability for Video Diffusion Models", ICML 2026, arXiv
2605.01929, and its public code (Noahwangyuchen/CASA, transfer.py at d7c8310). Where paper and code
differ, this follows the code. With source = U S V^T, both changes are written in the source's
singular basis:

    lora  = U^T delta V                 entry (i, j): what the LoRA adds from direction j to i
    drift = U^T (target - source) V     entry (i, j): what the target's training added there

The result is delta - U withdrawn V^T. `withdrawn` is, entry by entry:

    drift                        outside the target's dominant directions. The target's own training
                                 is taken back there: target + result = source + delta.
    the smaller of the two       inside dominant directions, where lora and drift have the same sign
                                 and are both large. target + result has the larger of the two
                                 instead of their sum.
    0                            everywhere else. There the result is delta.

Consequences:

- The result contains a part of the drift. A strength of s takes back s times that part, truncation
  to a rank drops some of it, and delta = 0 still gives an update. The result has full rank.
- Only the leading directions of a square weight are clustered; of any other weight, all are. A
  strong LoRA couples most directions into one cluster, and nothing is taken back inside of it.
- The result scales with the weights only as long as _GAP and _NORM, which are absolute, are small.
- The rules depend on the basis. The signs of singular vectors cancel, but equal singular values
  have no unique basis, and another basis gives another result.
- The same is true of the inputs or outputs of a rectangular weight that lie outside of its singular
  directions. The public code uses whatever basis its SVD returns there. Two random bases give
  results that differ by 0.17 to 0.35 of what the method changes (64 x 576, 40 x 100). This module
  uses the drift's own singular directions: no farther from a random basis than two random bases are
  from each other, the same on every device, and at most min(m, n) vectors instead of n x n.

Two things of the public scripts are left out: they round U, S, V and the drift to bfloat16 and
rebuild the source from them, and they do not read alpha.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from .effective_rank import smallest_rank
from .leading import leading_subspace

_ALL = 1 - 1e-12  # share of the energy of a float32 matrix; the rest is rounding
_GAP = 1e-6  # added to a gap between singular values, as published
_NORM = 1e-8  # added to a product of norms, as published


@dataclass(frozen=True)
class Choices:
    """The settings of the method; the defaults are the published ones.

    Attributes:
        rotation_threshold: two directions belong to one cluster if the LoRA couples them by more
            than this times the gap between their singular values. The same name in the public
            code; tau in the paper.
        dominance_quantile: the share of clusters that are not dominant, 0 to 1. q_threshold in the
            code, q_dom in the paper.
        arbitration_quantile: the share of the dominant entries with equal signs that are left as
            they are, 0 to 1. arbitrate_q in the code, q_act in the paper.
        square_energy: the share of a square weight's energy that its clustered directions hold, 0
            to 1. A constant in the public code.

    Raises:
        ValueError: a quantile or the energy is not between 0 and 1.
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
    """The directions in which an m x n update is written.

    Attributes:
        U: m x p, orthonormal columns; the source's left singular vectors first.
        V: n x q, orthonormal columns; the source's right singular vectors first.
        singular_values: of the source, descending; at most min(p, q) of them.
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
    """The update of the target (m x n) that replaces `delta`, an update of the source.

    It is dense and has full rank; the public code truncates it to rank 32.

    Args:
        delta, source, target: m x n, of the same dtype and on the same device.
        choices: the settings of the method.
    """
    drift = target - source
    return arbitrate_in(source_basis(source, drift), delta, drift, choices)


def source_basis(source: torch.Tensor, drift: torch.Tensor) -> Basis:
    """The source's singular directions, then the drift's that lie outside of them; both m x n."""
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
    """`arbitrate` in a given basis.

    Args:
        basis: must span the rows and columns of the source and of the drift.
        delta: m x n, the update of the source.
        drift: m x n, target - source.
        choices: the settings of the method.
    """
    if not len(basis.singular_values):
        return delta  # a source of zeros has no directions
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
    """How many leading directions are clustered."""
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
    """Which entries (p x q, bool) have their row or their column in a dominant cluster."""
    k = len(labels)
    dominant = torch.zeros_like(drifted, dtype=torch.bool)
    dominant[:k] = _dominant_rows(drifted[:k, :k], labels, quantile)[:, None]
    dominant[:, :k] |= _dominant_rows(drifted[:k, :k].T, labels, quantile)
    return dominant


def _dominant_rows(drifted: torch.Tensor, labels: torch.Tensor, quantile: float) -> torch.Tensor:
    """Which of k rows (bool) belong to a cluster whose mean row norm reaches the quantile."""
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
    """Which dominant entries (p x q, bool) have equal signs and a product above the quantile."""
    k = len(labels)
    same_sign = dominant & (routed.sign() == drifted.sign())
    score = routed * drifted
    score[:k, :k] *= _agreement(routed[:k, :k], drifted[:k, :k], labels)
    candidates = score[same_sign]
    if not len(candidates):
        return same_sign
    return same_sign & (score > _quantile(candidates, quantile, math.floor))


def _agreement(routed: torch.Tensor, drifted: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The cosine of the two in each pair of clusters, repeated for each of its entries (k x k)."""
    product = _by_block(routed * drifted, labels)
    norm, drift_norm = (_by_block(side.square(), labels).sqrt() for side in (routed, drifted))
    return (product / (norm * drift_norm + _NORM))[labels][:, labels]


def _by_cluster(rows: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum of the rows of each cluster."""
    sums = rows.new_zeros((int(labels.max()) + 1, *rows.shape[1:]))
    return sums.index_add_(0, labels, rows)


def _by_block(matrix: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The sum of the entries of each pair of clusters."""
    return _by_cluster(_by_cluster(matrix, labels).T, labels).T


def _quantile(values: torch.Tensor, share: float, towards: Callable[[float], int]) -> torch.Tensor:
    """The value at this share of the ascending order; `towards` rounds the position.

    The public code interpolates between two neighbours, which divides the values at the same
    place. torch.quantile refuses more than 16 million values, of which the public code draws 10
    million at random.
    """
    position = towards(round(share * (len(values) - 1), 6))  # as a float, 0.55 * 100 is above 55
    return torch.kthvalue(values, position + 1).values
