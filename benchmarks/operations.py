"""The operations and bytes of a transfer in mode `full`, counted from shapes.

An operation is one multiplication or addition. Counted is what the method needs (see
prolora/algebra/subspace.py): for both weights the Gram matrix of the shorter side (half of it, it
is symmetric), its eigenvectors, and the longer side's basis; then the two overlaps of Eq. 1, and
the projection of the LoRA's factors. The eigenvectors of a symmetric n x n matrix are 14/3 n^3: 4/3
to make it tridiagonal, 4/3 for those of a tridiagonal one by divide and conquer, 2 to turn them
back (LAPACK's syevd; Golub and Van Loan, "Matrix Computations", 4th edition, chapter 8). What
corrects them, and what compares and cuts, is left out.
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields

from fixtures.stable_diffusion import LoraModule
from prolora.algebra.effective_rank import smallest_rank

from .spectra import singular_values, spectrum_of

STORED = 2  # bytes of a number in a checkpoint and in a LoRA: fp16
ENERGY = 0.8


@dataclass(frozen=True)
class Operations:
    """By step; `bases` of both weights are the first three."""

    gram: float
    eigenvectors: float
    longer_side: float
    similarity: float
    projection: float

    @property
    def bases(self) -> float:
        return self.gram + self.eigenvectors + self.longer_side

    @property
    def total(self) -> float:
        return sum(getattr(self, field.name) for field in fields(self))

    def __add__(self, other: "Operations") -> "Operations":
        names = [field.name for field in fields(self)]
        return Operations(**{name: getattr(self, name) + getattr(other, name) for name in names})


NOTHING = Operations(0, 0, 0, 0, 0)


@dataclass(frozen=True)
class Bytes:
    """What is read of files and written to them."""

    weights: int
    loras: int
    results: int

    @property
    def total(self) -> int:
        return self.weights + self.loras + self.results


def counted(modules: Iterable[LoraModule], rank: int, loras: int = 1) -> Operations:
    """The operations of moving so many LoRAs of one rank between one pair of models."""
    return sum((_of_module(module, rank, loras) for module in modules), start=NOTHING)


def bytes_counted(modules: Iterable[LoraModule], rank: int, loras: int = 1) -> Bytes:
    """The bytes of the same."""
    modules = list(modules)
    weights = sum(2 * m.m * m.n for m in modules) * STORED
    factors = sum(rank * (m.m + m.n) for m in modules) * STORED * loras
    return Bytes(weights, factors, factors)


def _of_module(module: LoraModule, rank: int, loras: int) -> Operations:
    m, n = module.m, module.n
    short, long = sorted((m, n))
    k = expected_rank(module)
    return Operations(
        gram=2 * short**2 * long,
        eigenvectors=2 * 14 / 3 * short**3,
        longer_side=2 * 2 * m * n * k,
        similarity=2 * (m + n) * k**2,
        # A side: y = P_s x, then x - y - P_t (x - 2 y); a projector is two products.
        projection=loras * 8 * (m + n) * k * rank,
    )


def expected_rank(module: LoraModule) -> int:
    """The k of a module with a spectrum like a real one, see spectra.py."""
    values = singular_values(min(module.m, module.n), spectrum_of(module.name))
    return smallest_rank(values.square(), ENERGY)
