"""The leading singular subspace of a weight, and the similarity of two (phi, Eq. 1 of the paper).

Tensors in, tensors out: nothing here knows of models, files or reports. Where the subspace of a
weight comes from is in decomposition.py.
Source: Farhadzadeh et al., "Zero-Shot Adaptation of Parameter-Efficient Fine-Tuning in Diffusion
Models", ICML 2025, arXiv 2506.04244.
"""

import math
from dataclasses import dataclass

import torch


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
    energy = torch.linalg.vector_norm(weight, dtype=torch.float64).square()
    shares = S[:k].double().square() / energy
    return Subspace(U[:, :k], Q @ Vh[:k].T, shares)
