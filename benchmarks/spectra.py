"""Weights with a chosen spectrum: singular values that fall as those of trained layers do.

The shapes `attention`, `values` and `mlp` follow what was measured on the weights of a language
model of 135 million parameters: at an energy of 0.8 the subspace has 0.2 (attention's queries, keys
and outputs) to 0.5 (MLP) of all directions, and the squared singular value at the cut is 0.02 to
0.4 of the largest. The others are the hard cases: a spectrum without a gap anywhere (white noise),
values that agree to 1e-4 (clustered), and equal ones (repeated).
"""

import math
import re
from collections.abc import Callable
from functools import lru_cache

import torch

# x = i / k of k singular values -> their size
Spectrum = Callable[[torch.Tensor], torch.Tensor]

SPECTRA: dict[str, Spectrum] = {
    "attention": lambda x: (1 + 100 * x) ** -0.65,
    "values": lambda x: (1 + 40 * x) ** -0.55,
    "mlp": lambda x: (1 + 20 * x) ** -0.5,
    "white noise": torch.ones_like,  # not made of singular values, see made
    "clustered": lambda x: 0.5 ** (8 * x).floor() * (1 - 1e-4 * (8 * x).frac()),
    "repeated": lambda x: 0.5 ** (8 * x).floor(),
}

# What the modules of a UNet have.
_OF_MODULES = (
    (r"ff[._]", "mlp"),
    (r"to_v|proj_in|proj_out", "values"),
    (r"to_[qk]|to_out", "attention"),
    ("", "values"),
)


def spectrum_of(module: str) -> str:
    """The name of the spectrum of a module, by the module's name."""
    return next(name for pattern, name in _OF_MODULES if re.search(pattern, module))


def made(shape: tuple[int, int], spectrum: str, seed: int = 0) -> torch.Tensor:
    """An m x n weight in float32, its entries about 1 / sqrt(n).

    Of one spectrum and shape they are one matrix with rows and columns in another order and with
    other signs: as unrelated as if each had been drawn by itself, for a hundredth of the time.
    """
    m, n = shape
    random = torch.Generator().manual_seed(seed)
    if spectrum == "white noise":
        return torch.randn(m, n, generator=random) * n**-0.5
    rows, columns = (torch.randperm(side, generator=random) for side in shape)
    signs = torch.randint(0, 2, (n,), generator=random) * 2.0 - 1
    return _matrix(m, n, spectrum)[rows][:, columns] * signs


def singular_values(k: int, spectrum: str) -> torch.Tensor:
    """Descending, in float64; not those of white noise."""
    return SPECTRA[spectrum](torch.arange(k, dtype=torch.float64) / k)


@lru_cache(maxsize=12)
def _matrix(m: int, n: int, spectrum: str) -> torch.Tensor:
    """Made in float64, so that equal singular values are equal."""
    k = min(m, n)
    values = singular_values(k, spectrum)
    values = values * (math.sqrt(m) / float(values.norm()))
    return ((_orthonormal(m, k) * values) @ _orthonormal(n, k).T).float()


@lru_cache(maxsize=4)
def _orthonormal(d: int, k: int) -> torch.Tensor:
    """Orthonormal columns, d x k."""
    random = torch.Generator().manual_seed(d)
    return torch.linalg.qr(torch.randn(d, k, generator=random, dtype=torch.float64)).Q
