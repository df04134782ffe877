"""Leading singular vectors from a decomposition in float32, corrected, or known to be in doubt.

`eigh` in float32 takes a quarter of the time of float64, and finds every eigenvector up to those
whose eigenvalues are near its own. That is harm only where the neighbours are beyond the cut: at
1280 x 1280 and k = 927 the projector was off by 1e-4. One step of correction takes it to 2e-6:

    window      the vectors next to the cut, 32 on either side, are turned into the best
                eigenvectors that they span (Rayleigh and Ritz), in float64
    the others  V_1 becomes V_1 + V_2 C with C_ij = (V_2^T R)_ij / (l_j - l_i), the first order of
                perturbation theory, from the residual R = G V_1 - V_1 L in float64; only those
                columns of V_1 that are near enough to the cut to matter

What is left is the rounding of G itself, which is estimated. Where that is too much, or the rank is
in doubt, there is no answer here and the weight is decomposed in float64.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .decomposition import Decomposition, decompose, lower_gram
from .effective_rank import effective_rank, with_ties
from .subspace import Subspace

_WINDOW = 32  # vectors on either side of the cut
# What the rounding of G couples two eigenvectors by, as a share of the largest eigenvalue. Over
# spectra of every kind (tests/core/test_single_precision.py) the estimate by it was 0.8 to 40 times
# what was off.
_COUPLING = 4e-9
# The same of what eigh finds, but for vectors whose values nearly agree: 0.2e-8 to 2e-8 was seen.
_AS_FOUND = 2.5e-8
_LITTLE = 5e-6  # of the projector, that is left as it was found
_TOO_MUCH = 1e-5  # of ||P - P_exact||_F / ||P_exact||_F
_HELD_ERROR = 1e-6  # of the share of energy that leading vectors hold; up to 5e-7 was seen
_LARGE = 1e20  # a square that does well in float32, as does 1 divided by it
_CLEAR_GAP = 1e-5  # between two eigenvalues, as a share of them, that are surely no tie


@dataclass(frozen=True)
class SingleDecomposition:
    """The singular values and vectors of an m x n weight, as float32 finds them.

    Attributes:
        weight: m x n.
        matrix: the same in float32, transposed where it is tall; times a power of 2 where it is so
            large or small that its squares would leave float32's range.
        gram: of its shorter side; what is above the diagonal does not count.
        vectors: the singular vectors of that, in columns.
        squared: the squared singular values, descending, in float64.
        tall: whether m > n.
    """

    weight: torch.Tensor
    matrix: torch.Tensor
    gram: torch.Tensor
    vectors: torch.Tensor
    squared: torch.Tensor
    tall: bool

    def effective_rank(self, energy: float) -> int:
        """See effective_rank."""
        return effective_rank(self.squared, energy)

    @property
    def rank(self) -> int:
        """How many singular values there are; which of them are zero is not known here."""
        return len(self.squared)

    def with_ties(self, k: int) -> int:
        """See Decomposition."""
        return with_ties(self.squared, k)

    def subspace(self, k: int, energy: float) -> Subspace | None:
        """The subspace of the k leading singular vectors; None where float32 does not tell it.

        Args:
            energy: by which the weight's own effective rank was found, which must be no more than
                k; it must be certain too.
        """
        if not k:
            return self._subspace(self.vectors[:, :0], self.squared[:0])
        found = self._corrected(k)
        if found is None or not self._is_clear(found.squared, energy):
            return None
        return self._subspace(found.vectors, found.squared[:k])

    def exact(self) -> Decomposition:
        """The same weight in float64."""
        return decompose(self.weight)

    def _subspace(self, short: torch.Tensor, squared: torch.Tensor) -> Subspace:
        long = (self.matrix.T @ short) / squared.sqrt().float()
        U, V = (long, short) if self.tall else (short, long)
        return Subspace(U, V, squared / self._total)

    @property
    def _total(self) -> torch.Tensor:
        return self.gram.diagonal().sum(dtype=torch.float64)

    def _corrected(self, k: int) -> "_Corrected | None":
        """See the top of this file; None where too much would be off after it."""
        first, end = max(k - _WINDOW, 0), k + _WINDOW  # of the window
        good = min(self._good_as_they_are(k), first)
        gram = self.gram.tril()
        gram = (gram + gram.tril(-1).T).double()
        V = self.vectors[:, good:end].double()
        V /= V.norm(dim=0)
        GV = gram @ V
        turn = _ritz(V[:, first - good :], GV[:, first - good :])
        for columns in (V, GV):
            columns[:, first - good :] = columns[:, first - good :] @ turn
        values = (V * GV).sum(dim=0)
        near, cut = values[: k - good], k - good
        residual = (GV[:, :cut] - V[:, :cut] * near).float()
        beyond = torch.cat([V[:, cut:].float(), self.vectors[:, end:]], dim=1)
        squared = torch.cat([self.squared[:good], values, self.squared[end:]])
        gaps = squared[:k] - squared[k:, None]
        C = beyond.T @ residual / gaps[:, good:].float()
        C[: len(values) - cut, first - good :] = 0  # inside the window
        neglected = float(C.double().square().sum())
        coupled = _COUPLING * float(squared[0] * gaps.reciprocal().square().sum().sqrt())
        if not max(neglected, coupled) <= _TOO_MUCH * math.sqrt(k) or (gaps <= 0).any():
            return None
        vectors = torch.cat([self.vectors[:, :good], V[:, :cut].float() + beyond @ C], dim=1)
        return _Corrected(vectors, squared)

    def _good_as_they_are(self, k: int) -> int:
        """How many leading vectors are so far from the cut that they need no correction."""
        gaps = self.squared[:k] - self.squared[k:, None]
        couplings = (self.squared[0] * _AS_FOUND / gaps).square().sum(dim=0)
        return int((couplings.cumsum(0) < k * _LITTLE**2).sum())

    def _is_clear(self, squared: torch.Tensor, energy: float) -> bool:
        """Whether the weight's own effective rank is certain, with corrected squared values."""
        own = self.effective_rank(energy)
        held = squared[:own].cumsum(0) / self._total
        before = float(held[own - 2]) if own > 1 else 0.0
        value, following = float(squared[own - 1]), float(squared[own:][:1].sum())
        return (
            before < energy - _HELD_ERROR
            and float(held[own - 1]) > energy + _HELD_ERROR
            and value - following > _CLEAR_GAP * value
        )


@dataclass(frozen=True)
class _Corrected:
    """k leading vectors, and all squared singular values: those up to the window corrected."""

    vectors: torch.Tensor
    squared: torch.Tensor


def _ritz(X: torch.Tensor, GX: torch.Tensor) -> torch.Tensor:
    """What turns columns, orthonormal but for rounding, into the best eigenvectors among them."""
    L = torch.linalg.cholesky(X.T @ X)
    H = torch.linalg.solve_triangular(L, X.T @ GX, upper=False)
    H = torch.linalg.solve_triangular(L, H.T, upper=False)
    best = torch.linalg.eigh(H).eigenvectors.flip(1)
    turn: torch.Tensor = torch.linalg.solve_triangular(L.T, best, upper=True)
    return turn


def decompose_single(weights: Sequence[torch.Tensor]) -> list[SingleDecomposition]:
    """Decomposes m x n weights in float32, on their device; those of one shorter side in one call.

    A GPU has work for all of its cores only with many at a time.
    """
    prepared = [_with_gram(weight) for weight in weights]
    of_size: dict[int, list[int]] = {}
    for i, (_, gram) in enumerate(prepared):
        of_size.setdefault(len(gram), []).append(i)
    found: dict[int, SingleDecomposition] = {}
    for places in of_size.values():
        eigenvalues, eigenvectors = torch.linalg.eigh(torch.stack([prepared[i][1] for i in places]))
        for i, values, vectors in zip(places, eigenvalues, eigenvectors, strict=True):
            found[i] = SingleDecomposition(
                weight=weights[i],
                matrix=prepared[i][0],
                gram=prepared[i][1],
                vectors=vectors.flip(1),
                squared=values.flip(0).double().clamp_min(0),
                tall=_is_tall(weights[i]),
            )
    return [found[i] for i in range(len(weights))]


def _with_gram(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See SingleDecomposition.matrix and gram."""
    matrix = (weight.T if _is_tall(weight) else weight).float()
    gram = lower_gram(matrix)
    if not 1 / _LARGE < float(gram.diagonal().max()) < _LARGE and weight.any():
        exponent = math.frexp(float(weight.abs().max()))[1]
        matrix = matrix * 2.0**-exponent
        gram = lower_gram(matrix)
    return matrix, gram


def _is_tall(weight: torch.Tensor) -> bool:
    return weight.shape[0] > weight.shape[1]
