"""The method as the paper writes it, in float64, forming every projector and product.

Slow, obvious, and independent of the code under test: numpy's SVD instead of a Gram matrix, full
m x m projectors instead of factors.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class DenseSubspace:
    P: np.ndarray
    Q: np.ndarray
    rank: int

    @property
    def P_null(self) -> np.ndarray:
        return np.eye(len(self.P)) - self.P

    @property
    def Q_null(self) -> np.ndarray:
        return np.eye(len(self.Q)) - self.Q


def dense_subspace(weight: np.ndarray, energy: float, rank: int | None = None) -> DenseSubspace:
    """Of its own effective rank, or of the one that is given."""
    U, s, Vh = np.linalg.svd(weight.astype(np.float64), full_matrices=False)
    k = dense_rank(s, energy) if rank is None else rank
    return DenseSubspace(U[:, :k] @ U[:, :k].T, Vh[:k].T @ Vh[:k], k)


def dense_rank(s: np.ndarray, energy: float) -> int:
    """The effective rank, with the singular values that are equal to the last of it."""
    held = np.cumsum(s**2)
    if not held[-1] > 0:
        return 0
    return _with_ties(s, int(np.argmax(held >= energy * held[-1] * (1 - 1e-12))) + 1)


def _with_ties(s: np.ndarray, k: int) -> int:
    return int((s**2 >= s[k - 1] ** 2 * (1 - 1e-6)).sum())  # equal values are not torn apart


def dense_pair(
    source: np.ndarray, target: np.ndarray, energy: float
) -> tuple[DenseSubspace, DenseSubspace]:
    """Both of one rank: the larger effective rank, with the ties of both."""
    values = [np.linalg.svd(w.astype(np.float64), compute_uv=False) for w in (source, target)]
    k = max(dense_rank(s, energy) for s in values)
    if not all(dense_rank(s, energy) for s in values):  # a zero weight beside another one
        return dense_subspace(source, energy), dense_subspace(target, energy)
    for _ in values[0]:
        k = min(max(_with_ties(s, k) for s in values), *((s > 1e-6 * s[0]).sum() for s in values))
    return dense_subspace(source, energy, k), dense_subspace(target, energy, k)


def dense_similarity(source: DenseSubspace, target: DenseSubspace) -> tuple[float, float]:
    smaller = min(source.rank, target.rank)
    return (
        float(np.trace(source.P @ target.P)) / smaller,
        float(np.trace(source.Q @ target.Q)) / smaller,
    )


def dense_quadrants(delta: np.ndarray, source: DenseSubspace) -> dict[str, np.ndarray]:
    return {
        "subspace_subspace": source.P @ delta @ source.Q,
        "subspace_null": source.P @ delta @ source.Q_null,
        "null_subspace": source.P_null @ delta @ source.Q,
        "null_null": source.P_null @ delta @ source.Q_null,
    }


def dense_project(
    delta: np.ndarray, source: DenseSubspace, target: DenseSubspace, mode: str
) -> np.ndarray:
    part = dense_quadrants(delta, source)
    subspace = target.P @ part["subspace_subspace"] @ target.Q
    null = target.P_null @ part["null_null"] @ target.Q_null
    mixed = (
        target.P @ part["subspace_null"] @ target.Q_null
        + target.P_null @ part["null_subspace"] @ target.Q
    )
    return {"subspace": subspace, "prolora": subspace + null, "full": subspace + null + mixed}[mode]


def dense_across(
    delta: np.ndarray, source: np.ndarray, target: np.ndarray, energy: float
) -> np.ndarray:
    """Mode cross_width: every singular vector in the sign whose cubes add up to more than 0."""
    parts = [np.linalg.svd(w.astype(np.float64), full_matrices=False) for w in (source, target)]
    k = 1 + max(int(np.argmax(np.cumsum(s**2) >= energy * (s**2).sum())) for _, s, _ in parts)
    k = min(k, *(len(s) for _, s, _ in parts))
    bases = [(U[:, :k], Vh[:k].T) for U, _, Vh in parts]
    by_left = len(source) != len(target)
    turned = []
    for U, V in bases:
        signs = np.sign(((U if by_left else V) ** 3).sum(axis=0))
        turned.append((U * signs, V * signs))
    maps = []
    for ours, theirs in zip(*turned, strict=True):
        if len(ours) == len(theirs):
            P, Q = ours @ ours.T, theirs @ theirs.T
            maps.append(Q @ P + (np.eye(len(P)) - Q) @ (np.eye(len(P)) - P))
        else:
            maps.append(theirs @ ours.T)
    return maps[0] @ delta @ maps[1].T


def dense_fit(X: np.ndarray, z: np.ndarray, start: np.ndarray, penalty: float) -> np.ndarray:
    """The stationary point of the sum of squares of ridge.py, by the n x n normal equations."""
    X, z, start = (np.asarray(matrix, dtype=np.float64) for matrix in (X, z, start))
    shrunk = penalty * len(X) * np.square(X).mean()
    left = X.T @ X + shrunk * np.eye(X.shape[1])
    return np.linalg.solve(left, X.T @ z + shrunk * start.T).T
