"""Weights of every kind that a decomposition meets, with their singular values known.

`like attention` and `like mlp` fall as those of trained layers do; the others are the hard cases.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

# Places i / k of k singular values, and k -> their sizes, descending.
SPECTRA: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "like mlp": lambda x, k: (1 + 20 * x) ** -0.5,
    "like attention": lambda x, k: (1 + 200 * x) ** -0.7,
    "one over i": lambda x, k: 1 / (1 + k * x),
    "clustered": lambda x, k: 0.5 ** np.floor(6 * x) * (1 - 1e-4 * (6 * x % 1)),
    "tightly clustered": lambda x, k: 0.5 ** np.floor(6 * x) * (1 - 1e-6 * (6 * x % 1)),
    "repeated": lambda x, k: 0.5 ** np.floor(6 * x),
    "all equal": lambda x, k: np.ones(k),
    "outliers": lambda x, k: np.where(k * x < 3, 100 * (1 - x), (1 + 20 * x) ** -0.5),
    "of low rank": lambda x, k: np.where(x < 0.4, (1 + 20 * x) ** -0.5, 0),
    "white noise": lambda x, k: np.full(k, np.nan),  # not made of singular values
    "zero": lambda x, k: np.zeros(k),
}
# Those that real weights have something of.
LIFELIKE = ("like mlp", "like attention", "outliers", "white noise")


def weight(shape: tuple[int, int], kind: str, seed: int) -> torch.Tensor:
    """An m x n weight in float64, its largest entries about 1."""
    random = np.random.default_rng(seed)
    k = min(shape)
    values = SPECTRA[kind](np.arange(k) / k, k)
    if np.isnan(values).any():
        return torch.from_numpy(random.normal(size=shape))
    U, V = (np.linalg.qr(random.normal(size=(side, k)))[0] for side in shape)
    return torch.from_numpy((U * values) @ V.T) * k**0.5


@dataclass(frozen=True)
class Pair:
    """Two related weights, as a file has them, and an energy."""

    source: torch.Tensor
    target: torch.Tensor
    energy: float

    def __repr__(self) -> str:
        return f"{tuple(self.source.shape)} {self.source.dtype} at energy {self.energy}"


@st.composite
def pairs(draw: st.DrawFn, shorter: tuple[int, int]) -> Pair:
    """Both orientations, every dtype of files, scales from 1e-12 to 1e12 where it has them.

    Args:
        shorter: the least and the largest shorter side.
    """
    short, long = draw(st.integers(*shorter)), draw(st.integers(0, 90))
    shape = (short, short + long) if draw(st.booleans()) else (short + long, short)
    dtype = draw(st.sampled_from((torch.float32, torch.float16, torch.bfloat16)))
    exponent = draw(st.integers(-12, 12)) if dtype != torch.float16 else draw(st.integers(-3, 3))
    seed = draw(st.integers(0, 2**32 - 2))
    kinds = [draw(st.sampled_from(list(SPECTRA)))] * 2
    if draw(st.booleans()):
        kinds[1] = draw(st.sampled_from(list(SPECTRA)))
    source = weight(shape, kinds[0], seed)
    drift = draw(st.sampled_from((0.0, 0.05, 0.3, 1.0)))
    target = (1 - drift) * source + drift * weight(shape, kinds[1], seed + 1)
    scaled = (10.0**exponent * w for w in (source, target))
    source, target = (w.to(dtype).float() for w in scaled)
    return Pair(source, target, draw(st.floats(0.5, 0.95)))
