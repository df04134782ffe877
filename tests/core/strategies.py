"""Random weights and updates, of the shapes and spectra that models have."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from hypothesis import strategies as st

from prolora.algebra.maps import PROJECTION_MODES, BasisMap, terms_of
from prolora.algebra.subspace import Subspace
from prolora.algebra.updates import DenseUpdate, LowRankUpdate, Update


@dataclass(frozen=True)
class Case:
    """Two related weights and an update for the first, float32; delta = up @ down."""

    source: torch.Tensor
    target: torch.Tensor
    update: LowRankUpdate
    energy: float

    @property
    def delta(self) -> np.ndarray:
        return dense(self.update)


def dense(update: LowRankUpdate) -> np.ndarray:
    return (update.up.double() @ update.down.double()).numpy()


def project(update: Update, source: Subspace, target: Subspace, mode: str) -> Update:
    """The update in a mode that projects."""

    def left(part: BasisMap, columns: torch.Tensor) -> torch.Tensor:
        return part(columns, source.U, target.U)

    def right(part: BasisMap, columns: torch.Tensor) -> torch.Tensor:
        return part(columns, source.V, target.V)

    return update.apply(terms_of(PROJECTION_MODES[mode], left, right))


def relative_error(value: np.ndarray, reference: np.ndarray) -> float:
    return float(np.linalg.norm(value - reference) / np.linalg.norm(reference))


@st.composite
def cases(draw: st.DrawFn, min_energy: float = 0.3, max_energy: float = 0.95) -> Case:
    """m > n, m < n and m = n; rank 1 up to ranks above min(m, n)."""
    m, n = draw(st.integers(4, 40)), draw(st.integers(4, 40))
    rank = draw(st.sampled_from((1, 2, 8, min(m, n), min(m, n) + 3)))
    decay = draw(st.floats(0.0, 2.0))  # 0 is white noise, 2 falls off steeply
    drift = draw(st.floats(0.2, 1.0))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape = np.arange(1, min(m, n) + 1) ** -decay
    source = spectrum(random, m, n, shape)
    noise = spectrum(random, m, n, shape)
    target = source + drift * noise
    return Case(
        source=torch.tensor(source, dtype=torch.float32),
        target=torch.tensor(target, dtype=torch.float32),
        update=LowRankUpdate(
            torch.tensor(random.normal(size=(m, rank)), dtype=torch.float32),
            torch.tensor(random.normal(size=(rank, n)), dtype=torch.float32),
        ),
        energy=draw(st.floats(min_energy, max_energy)),
    )


def spectrum(random: np.random.Generator, m: int, n: int, values: np.ndarray) -> np.ndarray:
    """An m x n matrix with these singular values and random singular vectors."""
    k = len(values)
    U, _ = np.linalg.qr(random.normal(size=(m, k)))
    V, _ = np.linalg.qr(random.normal(size=(n, k)))
    return (U * values) @ V.T


def rotated(subspace: Subspace, seed: int) -> Subspace:
    """The same subspace in another orthonormal basis, reflections included."""
    random = np.random.default_rng(seed)
    k = subspace.rank
    turn = [torch.tensor(np.linalg.qr(random.normal(size=(k, k)))[0]).float() for _ in range(2)]
    return replace(subspace, U=subspace.U @ turn[0], V=subspace.V @ turn[1])


def formed(update: Update) -> np.ndarray:
    if isinstance(update, LowRankUpdate):
        return dense(update)
    assert isinstance(update, DenseUpdate)
    return update.delta.double().numpy()
