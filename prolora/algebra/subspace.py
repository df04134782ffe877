"""The leading singular subspace of a weight, and the similarity of two (phi, Eq. 1 of the paper).

Tensors in, tensors out: nothing here knows of models, files or reports.
Source: Farhadzadeh et al., "Zero-Shot Adaptation of Parameter-Efficient Fine-Tuning in Diffusion
Models", ICML 2025, arXiv 2506.04244.
"""

import math
from dataclasses import dataclass

import torch

from ..errors import ProLoRAError

# Singular values whose squares agree to this are one: float32 weights do not tell them apart, so a
# cut between them would pick an arbitrary basis.
_TIE = 1e-6
# A squared singular value below this share of the largest is rounding of the Gram matrix.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Subspace:
    """The leading k singular vectors of an m x n weight.

    Attributes:
        U: m x k, orthonormal columns (left, the outputs).
        V: n x k, orthonormal columns (right, the inputs). Not transposed.
        shares: k, of the weight's energy, descending; float64.
    """

    U: torch.Tensor
    V: torch.Tensor
    shares: torch.Tensor

    @property
    def rank(self) -> int:
        """k, the effective rank."""
        return self.U.shape[1]


@dataclass(frozen=True)
class Similarity:
    """How far two subspaces coincide, left and right; every figure lies in [0, 1].

    Attributes:
        left, right: Phi_l and Phi_r of Eq. 1; 1 when the smaller subspace lies in the larger.
        left_chance, right_chance: what unrelated subspaces of these ranks reach on average.
    """

    left: float
    right: float
    left_chance: float
    right_chance: float

    @property
    def score(self) -> float:
        """What is compared with the threshold."""
        return min(self.left, self.right)

    def reaches(self, threshold: float) -> bool:
        """Whether it is enough; equal subspaces miss 1 by a rounding in float32."""
        return self.score >= threshold - 1e-6

    @property
    def left_corrected(self) -> float:
        return chance_corrected(self.left, self.left_chance)

    @property
    def right_corrected(self) -> float:
        return chance_corrected(self.right, self.right_chance)


def chance_corrected(phi: float, chance: float) -> float:
    """0 for what chance gives, 1 for equal subspaces; NaN where chance alone already gives 1."""
    return (phi - chance) / (1 - chance) if chance < 1 else math.nan  # also for a chance of NaN


def smallest_rank(squared_singular_values: torch.Tensor, energy: float) -> int:
    """The smallest k with s_1^2 + ... + s_k^2 >= energy * sum s_i^2; 0 for a zero matrix.

    Args:
        squared_singular_values: descending, float64.
        energy: share of the squared Frobenius norm to hold, in (0, 1).
    """
    total = squared_singular_values.sum()
    if total == 0:
        return 0
    held = torch.cumsum(squared_singular_values, dim=0)
    # One rounding error of the sums must not cost a singular vector.
    k = int((held < energy * total * (1 - 1e-12)).sum()) + 1
    return min(k, len(squared_singular_values))


def effective_rank(squared_singular_values: torch.Tensor, energy: float) -> int:
    """The smallest rank that holds the energy, and all values equal to the last.

    Without those the subspace would be arbitrary. The arguments are those of smallest_rank.
    """
    return _with_ties(squared_singular_values, smallest_rank(squared_singular_values, energy))


def _with_ties(squared: torch.Tensor, k: int) -> int:
    """k, or more where the k-th value has equal ones after it."""
    if k == 0 or squared[k - 1] <= 0:
        return k
    return int((squared >= squared[k - 1] * (1 - _TIE)).sum())


@dataclass(frozen=True)
class Decomposition:
    """The singular values and vectors of an m x n weight.

    They come from the eigenvectors of the smaller Gram matrix, in float64: squaring costs half of
    the digits, and float64 has twice those of float32, so it is more exact than an SVD in float32
    and takes about as long (benchmarks/decomposition.py).

    Attributes:
        matrix: the weight, transposed where it is tall, in float64.
        vectors: the singular vectors of its shorter side, in columns.
        squared: the squared singular values, descending, in float64.
        tall: whether m > n.
        dtype: of the subspaces: the weight's where that is float32 or float64.
    """

    matrix: torch.Tensor
    vectors: torch.Tensor
    squared: torch.Tensor
    tall: bool
    dtype: torch.dtype

    def effective_rank(self, energy: float) -> int:
        """See effective_rank."""
        return effective_rank(self.squared, energy)

    @property
    def rank(self) -> int:
        """How many singular values are not zero, but for rounding."""
        return int((self.squared > self.squared[0] * _ROUNDING).sum())

    def leading(self, k: int) -> Subspace:
        """The subspace of the k leading singular vectors."""
        short = self.vectors[:, :k]
        long = (self.matrix.T @ short) / self.squared[:k].sqrt()
        U, V = (long, short) if self.tall else (short, long)
        return Subspace(U.to(self.dtype), V.to(self.dtype), self.squared[:k] / self.squared.sum())


def decompose(weight: torch.Tensor) -> Decomposition:
    """Decomposes an m x n weight on its device; a convolution is out x (in * kh * kw)."""
    tall = weight.shape[0] > weight.shape[1]
    matrix = (weight.T if tall else weight).double()
    eigenvalues, eigenvectors = torch.linalg.eigh(matrix @ matrix.T)
    return Decomposition(
        matrix=matrix,
        vectors=eigenvectors.flip(1),
        squared=eigenvalues.flip(0).clamp_min(0),
        tall=tall,
        dtype=weight.dtype if weight.dtype == torch.float64 else torch.float32,
    )


def leading_subspace(weight: torch.Tensor, energy: float) -> Subspace:
    """The subspace of an m x n weight that holds `energy` of it; see decompose.

    Args:
        energy: in (0, 1); at 1 a square full-rank weight would have no null space left.
    """
    _check_energy(energy)
    found = decompose(weight)
    return found.leading(found.effective_rank(energy))


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
    _check_energy(energy)
    ours, theirs = decompose(source), decompose(target)
    k_s, k_t = ours.effective_rank(energy), theirs.effective_rank(energy)
    if not k_s or not k_t:
        return SubspacePair(ours.leading(k_s), theirs.leading(k_t), k_s, k_t)
    k, before = max(k_s, k_t), 0
    while k != before:
        before = k
        k = max(_with_ties(ours.squared, k), _with_ties(theirs.squared, k))
        k = min(k, ours.rank, theirs.rank)
    return SubspacePair(ours.leading(k), theirs.leading(k), k_s, k_t)


def _check_energy(energy: float) -> None:
    if not 0 < energy < 1:
        raise ValueError(f"energy is {energy}; it must lie between 0 and 1, both excluded")


def randomized_subspace(weight: torch.Tensor, rank: int) -> Subspace:
    """A fast estimate of the subspace of the `rank` leading singular vectors.

    It is exact enough to compare weights, but not to project onto. The method is a randomised range
    finder with two power iterations (Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4).
    It is seeded, so equal weights have equal subspaces. A zero weight has a subspace of rank 0.

    Args:
        weight: m x n, float32 or float64.
        rank: at most the smaller of m and n is used.
    """
    generator = torch.Generator().manual_seed(0)
    k = min(rank, *weight.shape) if weight.any() else 0
    start = torch.randn(weight.shape[1], k + k // 4, generator=generator, dtype=weight.dtype)
    Q = start.to(weight.device)
    for _ in range(2):
        Q = torch.linalg.qr(weight @ Q).Q
        Q = torch.linalg.qr(weight.T @ Q).Q
    U, S, Vh = torch.linalg.svd(weight @ Q, full_matrices=False)
    shares = S[:k].double().square() / weight.double().square().sum()
    return Subspace(U[:, :k], Q @ Vh[:k].T, shares)


def has_float64(device: torch.device) -> bool:
    """Whether a device is there and holds float64, as leading_subspace needs; Apple's does not."""
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError, NotImplementedError, AssertionError):
        return False
    return True


def check_float64(device: torch.device, needed: str) -> None:
    """Refuses a device that a job cannot run on.

    Args:
        needed: what needs float64, with its verb.

    Raises:
        ProLoRAError: the device is not there, or has no float64.
    """
    if not has_float64(device):
        raise ProLoRAError(
            f"The device {device} is not there, or cannot compute in float64 as {needed} it. "
            "Choose cuda or cpu."
        )


def can_decompose(device: torch.device) -> bool:
    """Whether a device is there and computes in float64, as leading_subspace does."""
    try:
        float(torch.linalg.eigh(torch.eye(2, dtype=torch.float64, device=device)).eigenvalues[0])
    except (RuntimeError, TypeError, NotImplementedError, AssertionError, ImportError):
        return False
    return True


def similarity(source: Subspace, target: Subspace) -> Similarity:
    """Eq. 1: Phi = ||A_s^T A_t||_F^2 / min(k_s, k_t), for U and for V, with the chance levels.

    Two empty subspaces (of zero weights) are equal: 1. An empty and another one: 0.
    """
    larger = max(source.rank, target.rank)
    return Similarity(
        left=overlap(source.U, target.U),
        right=overlap(source.V, target.V),
        left_chance=larger / source.U.shape[0],
        right_chance=larger / source.V.shape[0],
    )


def overlap(source: torch.Tensor, target: torch.Tensor) -> float:
    """Phi of one side: ||A_s^T A_t||_F^2 / min(k_s, k_t), for d x k_s and d x k_t orthonormal."""
    smaller = min(source.shape[1], target.shape[1])
    if smaller == 0:
        return float(source.shape[1] == target.shape[1])
    squared_norm = (source.T @ target).double().square().sum()
    return min(float(squared_norm) / smaller, 1.0)  # rounding alone goes above 1
