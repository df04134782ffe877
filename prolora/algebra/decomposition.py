"""The singular values and vectors of a weight, from the Gram matrix of its shorter side.

Squaring costs half of the digits. In float64 that leaves more than an SVD in float32 has; float32
needs more care, which is in single_precision.py.
"""

from dataclasses import dataclass

import torch

from .effective_rank import effective_rank, with_ties
from .subspace import Subspace

# A squared singular value below this share of the largest is rounding of the Gram matrix.
_ROUNDING = 1e-13
_BLOCK = 320  # rows of a Gram matrix that are computed at a time


@dataclass(frozen=True)
class Decomposition:
    """The singular values and vectors of an m x n weight, in float64.

    Attributes:
        matrix: the weight, transposed where it is tall.
        vectors: the singular vectors of its shorter side, in columns.
        squared: the squared singular values, descending.
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

    def with_ties(self, k: int) -> int:
        """k, or more where equal singular values follow the k-th one."""
        return with_ties(self.squared, k)

    @property
    def rank(self) -> int:
        """How many singular values are not zero, but for rounding."""
        return int((self.squared > self.squared[0] * _ROUNDING).sum())

    def exact(self) -> "Decomposition":
        """It is."""
        return self

    def subspace(self, k: int, energy: float) -> Subspace:
        """The subspace of the k leading singular vectors; `energy` is not looked at."""
        short = self.vectors[:, :k]
        long = (self.matrix.T @ short) / self.squared[:k].sqrt()
        U, V = (long, short) if self.tall else (short, long)
        return Subspace(U.to(self.dtype), V.to(self.dtype), self.squared[:k] / self.squared.sum())


def decompose(weight: torch.Tensor) -> Decomposition:
    """Decomposes an m x n weight on its device; a convolution is out x (in * kh * kw)."""
    tall = weight.shape[0] > weight.shape[1]
    matrix = (weight.T if tall else weight).double()
    eigenvalues, eigenvectors = torch.linalg.eigh(lower_gram(matrix))
    return Decomposition(
        matrix=matrix,
        vectors=eigenvectors.flip(1),
        squared=eigenvalues.flip(0).clamp_min(0),
        tall=tall,
        dtype=weight.dtype if weight.dtype == torch.float64 else torch.float32,
    )


def lower_gram(matrix: torch.Tensor) -> torch.Tensor:
    """Matrix @ matrix.T below the diagonal, which is all that eigh looks at; zeros elsewhere.

    In blocks of rows, so that it takes little more than half of the operations.
    """
    m = matrix.shape[0]
    gram = matrix.new_zeros(m, m)
    for start in range(0, m, _BLOCK):
        end = min(start + _BLOCK, m)
        gram[start:end, :end] = matrix[start:end] @ matrix[:end].T
    return gram
