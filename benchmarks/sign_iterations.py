"""A prototype: projectors onto leading subspaces by matrix-sign iterations, batched products only.

On a GPU an eigendecomposition is the slow part of a transfer, and a projector needs no
eigenvectors. With G = W W^T of the shorter side, and a cut c between two of its eigenvalues,

    P(c) = (I + sign(G - c I)) / 2

is the projector onto the eigenvectors above c. The sign is a composition of odd polynomials of
degree 5, each the best one for what the last has left (Polar Express: Amsel, Persson, Musco and
Gower, arXiv 2505.16932); a step is three products. Where the cut must lie for an energy is found by
traces: tr P(c) counts the eigenvalues above c, and tr(P(c) G) is their sum. The first cut is
guessed from a sketch of the spectrum by Lanczos' iteration, the next ones from it and from the last
two, until few eigenvalues are left between two cuts. The eigenvectors of those few are found in the
range of the difference of both projectors, and decided one by one; so k is exact, and eigenvalues
so near to a cut that their sign stays a fraction do no harm. Where many equal ones stay between,
that matrix is decomposed. At energy 0.8 it takes about 100 products of d x d matrices.

The core does not use it: on a CPU it loses by far. What it wins on a GPU is for
benchmarks/spectrum.py to measure, with --device cuda.
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch

NEAREST = 1e-5  # of the largest eigenvalue: nearer to a cut than this, a sign may stay a fraction
WINDOW = 24  # eigenvalues that are decided one by one
SPARE = 8  # directions more, for fractions at both edges
CUTS = 16  # at most
SAFETY, SHARPENED = 0.02, 2
NEWTON_SCHULZ = (15 / 8, -10 / 8, 3 / 8)
STEPS, PROBES = 48, 8  # of the estimate of the spectrum


@dataclass(frozen=True)
class Projectors:
    """Of a batch of weights, m x n each, with d = min(m, n).

    Attributes:
        P: batch x d x d, of the shorter side.
        ranks: k of each.
        products: how many of batches of d x d matrices it took.
    """

    P: torch.Tensor
    ranks: list[int]
    products: int


@dataclass(frozen=True)
class _Cut:
    """A cut of each matrix of a batch.

    Attributes:
        at: where.
        P: the projectors onto what is above.
        count, held: how many eigenvalues are above, and their sum; float64.
    """

    at: torch.Tensor
    P: torch.Tensor
    count: torch.Tensor
    held: torch.Tensor

    def where(self, chosen: torch.Tensor, other: "_Cut") -> "_Cut":
        """This one for the chosen matrices, the other one for the rest."""
        P = torch.where(chosen[:, None, None], self.P, other.P)
        pairs = (self.at, other.at), (self.count, other.count), (self.held, other.held)
        at, count, held = (torch.where(chosen, ours, theirs) for ours, theirs in pairs)
        return _Cut(at, P, count, held)


def leading_projectors(weights: torch.Tensor, energy: float) -> Projectors:
    """Onto the leading left singular vectors; onto the right ones of tall weights.

    Args:
        weights: batch x m x n, float32; none of them zero.
        energy: share of a weight's squared norm that its subspace holds, in (0, 1).
    """
    wide = weights if weights.shape[1] <= weights.shape[2] else weights.mT
    G = wide @ wide.mT
    G = G / _largest(G)[:, None, None]
    high, low, cuts = _window(G, energy)
    sharp = _sharpened(high.P), _sharpened(low.P)
    decided = [_decided(*matrices, energy) for matrices in zip(G, *sharp, strict=True)]
    products = 3 + 3 * len(polynomials()) * cuts + 3 * SHARPENED * len(sharp)
    return Projectors(torch.stack([P for P, _ in decided]), [k for _, k in decided], products)


def _largest(G: torch.Tensor) -> torch.Tensor:
    """A little more than the largest eigenvalue: the eighth root of tr G^8."""
    size = torch.linalg.matrix_norm(G)
    power = G / size[:, None, None]
    for _ in range(2):
        power = power @ power
    return size * power.square().sum((1, 2)) ** (1 / 8)


def _window(G: torch.Tensor, energy: float) -> tuple[_Cut, _Cut, int]:
    """Two cuts with few eigenvalues between, the wanted one too; and how many cuts it took."""
    total = G.diagonal(dim1=1, dim2=2).double().sum(1)
    wanted, none = energy * total, torch.zeros_like(total)
    identity = torch.eye(G.shape[1], dtype=G.dtype, device=G.device).expand_as(G)
    high = _Cut(none + 1, torch.zeros_like(G), none, none)
    low = _Cut(none, identity, none + G.shape[1], total)
    estimated = _estimated(G)
    for cuts in range(CUTS):
        if float((low.count - high.count).max()) <= WINDOW:
            return high, low, cuts
        found = _cut(G, _guess(estimated, high, low, wanted))
        enough = found.held >= wanted
        high, low = high.where(enough, found), found.where(enough, low)
    return high, low, CUTS


def _guess(estimated: torch.Tensor, high: _Cut, low: _Cut, wanted: torch.Tensor) -> torch.Tensor:
    """A cut on the farther side of where the wanted one must be, so that both sides close in.

    Between the last two cuts the eigenvalues are taken as estimated; as spread evenly, where too
    few of the estimated ones are there.

    Args:
        estimated: batch x d, descending.
    """
    between = (estimated < high.at[:, None]) & (estimated > low.at[:, None])
    share = (wanted - high.held) / (low.held - high.held)  # of the sum of those between
    sums = (estimated * between).cumsum(1)
    count = between.sum(1)
    place = (sums < share[:, None] * sums[:, -1:]).logical_and(between).sum(1)  # among them
    margin = (0.4 * WINDOW * count / (low.count - high.count).clamp_min(1)).ceil()
    place = torch.where(2 * place > count, place - margin, place + margin)
    place = place.clamp_min(0).minimum((count - 1).clamp_min(0)).long()
    first = (estimated >= high.at[:, None]).sum(1)
    at = estimated.gather(1, (first + place).clamp(max=estimated.shape[1] - 1)[:, None])[:, 0]
    aside = (0.4 * WINDOW / (low.count - high.count).clamp_min(1)).clamp(max=0.25)
    evenly = torch.where(share > 0.5, share - aside, share + aside)
    evenly = high.at + evenly * (low.at - high.at)
    at = torch.where(count > WINDOW, at, evenly)
    edge = 0.02 * (high.at - low.at)
    return at.clamp(low.at + edge, high.at - edge)


def _estimated(G: torch.Tensor) -> torch.Tensor:
    """The eigenvalues of each matrix, estimated: batch x d, descending, in float64.

    By Lanczos' iteration from some random vectors, whose small tridiagonal matrices tell how many
    eigenvalues are where (stochastic Lanczos quadrature: Ubaru, Chen and Saad, SIAM Journal on
    Matrix Analysis 38, 2017). It costs less than a product.
    """
    batch, d, _ = G.shape
    steps, random = min(STEPS, d), torch.Generator(G.device).manual_seed(0)
    V = torch.randn(batch, d, PROBES, generator=random, device=G.device)
    V /= V.norm(dim=1, keepdim=True)
    known, T = [V], G.new_zeros(batch, PROBES, steps, steps)
    for i in range(steps):
        W = G @ known[i]
        T[:, :, i, i] = (W * known[i]).sum(1)
        for _ in range(2):  # the second time for what rounding left
            for Q in known:
                W = W - Q * (W * Q).sum(1, keepdim=True)
        size = W.norm(dim=1)
        if i + 1 < steps:
            T[:, :, i, i + 1] = T[:, :, i + 1, i] = size
        known.append(W / size.clamp_min(1e-12)[:, None])
    nodes, vectors = torch.linalg.eigh(T.double())
    weights = vectors[:, :, 0].square() * d / PROBES  # of eigenvalues around each node
    nodes, order = nodes.flatten(1).sort(1, descending=True)
    ends = weights.flatten(1).gather(1, order).cumsum(1)
    place = torch.arange(d, device=G.device, dtype=torch.float64) + 0.5
    found = torch.searchsorted(ends, place.expand(batch, d).contiguous())
    return nodes.gather(1, found.clamp(max=nodes.shape[1] - 1))


def _cut(G: torch.Tensor, at: torch.Tensor) -> _Cut:
    P = _projectors(G, at)
    count = P.diagonal(dim1=1, dim2=2).double().sum(1)
    return _Cut(at, P, count, (P.double() * G.double()).sum((1, 2)))


def _projectors(G: torch.Tensor, cut: torch.Tensor) -> torch.Tensor:
    """P(c) for each matrix."""
    identity = torch.eye(G.shape[1], dtype=G.dtype, device=G.device)
    at = cut.to(G.dtype)[:, None, None]
    X = (G - at * identity) / torch.maximum(at, 1 - at)
    for coefficients in polynomials():
        X = _step(X, *coefficients)
    return (identity + X) / 2


def _sharpened(P: torch.Tensor) -> torch.Tensor:
    """With the fractions that are nearly 0 or 1 at 0 or 1."""
    identity = torch.eye(P.shape[1], dtype=P.dtype, device=P.device)
    X = 2 * P - identity
    for _ in range(SHARPENED):
        X = _step(X, *NEWTON_SCHULZ)
    return (identity + X) / 2


def _step(X: torch.Tensor, a: float, b: float, c: float) -> torch.Tensor:
    square = X @ X
    X = a * X + X @ (b * square + c * (square @ square))
    return (X + X.mT) / 2


def _decided(
    G: torch.Tensor, P_high: torch.Tensor, P_low: torch.Tensor, energy: float
) -> tuple[torch.Tensor, int]:
    """The projector of one matrix, and its rank: those of the window are taken one by one."""
    difference = P_low - P_high
    if float(difference.trace()) > WINDOW + SPARE / 2:
        return _decomposed(G, energy)
    random = torch.Generator(G.device).manual_seed(0)
    columns = min(WINDOW + SPARE, len(G))
    start = torch.randn(len(G), columns, generator=random, device=G.device)
    Q = torch.linalg.qr(difference @ start).Q
    weights, turned = torch.linalg.eigh(Q.mT @ difference @ Q)
    Q = Q @ turned[:, weights > 1e-3]
    P = P_high - Q @ (Q.mT @ P_high)
    P = P - (P @ Q) @ Q.mT
    values, vectors = torch.linalg.eigh((Q.mT @ G @ Q).double())
    values, vectors = values.flip(0), (Q.double() @ vectors.flip(1)).to(G.dtype)
    held = (P.double() * G.double()).sum() + values.cumsum(0)
    more = int((held < energy * G.diagonal().double().sum()).sum()) + 1
    chosen = vectors[:, :more]
    return P + chosen @ chosen.mT, round(float(P.trace())) + more


def _decomposed(G: torch.Tensor, energy: float) -> tuple[torch.Tensor, int]:
    values, vectors = torch.linalg.eigh(G)
    held = values.flip(0).double().cumsum(0)
    k = int((held < energy * held[-1]).sum()) + 1
    chosen = vectors.flip(1)[:, :k]
    return chosen @ chosen.mT, k


@cache
def polynomials() -> tuple[tuple[float, float, float], ...]:
    """(a, b, c) of each a x + b x^3 + c x^5: together they take [NEAREST, 1] to 1 +- 1e-7."""
    found, low, high = [], NEAREST, 1.0
    while high - low > 1e-7:
        coefficients, error = _best(low, high)
        found.append(coefficients)
        # With room for rounding: beyond `high` a polynomial grows without bound.
        low, high = 1 - error, (1 + error) * (1 + SAFETY * error)
    return tuple(found)


def _best(low: float, high: float) -> tuple[tuple[float, float, float], float]:
    """The odd polynomial of degree 5 that is nearest to 1 on an interval, and how far it is off.

    By Remez' algorithm: it is off by the same at both ends and at its two extremes inside, to
    either side in turn. On a short interval around 1 those points coincide in floating point, and
    the polynomial is that of Newton and Schulz.
    """
    if high - low < 1e-2:
        a, b, c = NEWTON_SCHULZ
        return NEWTON_SCHULZ, max(abs(1 - x * (a + x**2 * (b + x**2 * c))) for x in (low, high))
    inside = (3 * low + high) / 4, (low + 3 * high) / 4
    for _ in range(40):
        points = np.array([low, *inside, high])
        signs = np.array([1, -1, 1, -1])
        rows = np.stack([points, points**3, points**5, signs], axis=1)
        a, b, c, error = map(float, np.linalg.solve(rows, np.ones(4)))
        root = math.sqrt(9 * b * b - 20 * a * c)
        inside = tuple(math.sqrt((-3 * b + sign * root) / (10 * c)) for sign in (-1, 1))
    return (a, b, c), error
