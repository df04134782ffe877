"""The costs of a weight's subspace, a shape of SDXL at a time: ours against SVDs.

    python -m benchmarks.spectrum
    python -m benchmarks.spectrum --threads 1 --hard         # also white noise, clusters, ties
    python -m benchmarks.spectrum --device cuda --batch 8    # also eigh and sign iterations

Run it in the repository's root. All methods get the same weights in turns in the same run, so that
other load slows all of them. They are:

- *ours*: `prolora.algebra.leading.leading_subspace`.
- *thin SVD*: `torch.linalg.svd(full_matrices=False)` in float32, of the transpose where that is the
  tall one: the faster of both ways, and what a careful program does.
- *full SVD*: `torch.linalg.svd(full_matrices=True)` in float32, as CASA's scripts call it.
- on a GPU also what could stand inside of ours: the eigenvectors of the smaller Gram matrix in
  float32, one after the other and batched, and sign_iterations.py.

The weights have spectra like real ones (spectra.py). A basis is *off* by the Frobenius distance of
its projector from that of an SVD in float64, relative to that projector's norm; the worse of both
sides counts. Equal singular values stay together there (effective_rank.py), which no SVD minds. The
totals are for all of SDXL's modules, each with its shape's and spectrum's time. In a transfer every
core has a weight of its own, so --threads 1 tells most.
"""

import argparse
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fixtures.stable_diffusion import SDXL, unet_lora_modules
from prolora.algebra.effective_rank import effective_rank, smallest_rank
from prolora.algebra.leading import leading_subspace
from prolora.algebra.precision import full_float32

from .report import Report, parser_of
from .sign_iterations import leading_projectors
from .spectra import made, spectrum_of
from .timing import Timed, in_turns

ENERGY = 0.8
HARD = ("white noise", "clustered", "repeated")
HARD_SHAPES = ((640, 640), (1280, 1280), (640, 5760))  # the last one is a 3 x 3 convolution
OURS, THIN, FULL = "ours", "thin SVD", "full SVD"


@dataclass(frozen=True)
class Found:
    """What a method says of a weight's leading subspace.

    Attributes:
        rank: k.
        bases: orthonormal columns of the sides it gives, the shorter side's first.
        projector: of the shorter side, where it gives that instead.
    """

    rank: int
    bases: tuple[torch.Tensor, ...] = ()
    projector: torch.Tensor | None = None


Method = Callable[[torch.Tensor], list[Found]]  # of a batch of weights of one shape


@dataclass(frozen=True)
class Case:
    """Weights of one shape and spectrum, and how many of them SDXL has."""

    shape: tuple[int, int]
    spectrum: str
    count: int = 0


def ours(weights: torch.Tensor) -> list[Found]:
    found = [leading_subspace(weight, ENERGY) for weight in weights]
    return [Found(f.rank, _shorter_first(f.U, f.V)) for f in found]


def thin_svd(weights: torch.Tensor) -> list[Found]:
    return [_by_svd(weight, full=False) for weight in weights]


def full_svd(weights: torch.Tensor) -> list[Found]:
    return [_by_svd(weight, full=True) for weight in weights]


def eigenvectors_in_a_loop(weights: torch.Tensor) -> list[Found]:
    return [_by_eigenvectors(*torch.linalg.eigh(gram)) for gram in _gram(weights)]


def eigenvectors_batched(weights: torch.Tensor) -> list[Found]:
    values, vectors = torch.linalg.eigh(_gram(weights))
    return [_by_eigenvectors(*pair) for pair in zip(values, vectors, strict=True)]


def sign_iterations(weights: torch.Tensor) -> list[Found]:
    found = leading_projectors(weights, ENERGY)
    return [Found(k, projector=P) for k, P in zip(found.ranks, found.P, strict=True)]


METHODS: dict[str, Method] = {OURS: ours, THIN: thin_svd, FULL: full_svd}
ON_A_GPU: dict[str, Method] = {
    "eigh, a loop": eigenvectors_in_a_loop,
    "eigh, batched": eigenvectors_batched,
    "signs": sign_iterations,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each shape and spectrum, and the totals."""
    options = _options(arguments)
    report = Report(options)
    methods = {name: (METHODS | ON_A_GPU)[name] for name in options.methods}
    real = cases(options.width)
    report.table(
        f"A weight's subspace at energy {ENERGY}, milliseconds a weight",
        _columns(methods),
    )
    total = {name: np.zeros(2) for name in methods}  # on the clock, and of CPU time
    for case in real[: options.first]:
        runs = _row(report, case, methods, options)
        for name, run in runs.items():
            total[name] += case.count / options.batch * np.array([run.seconds, run.cpu_seconds])
    for name in HARD if options.hard else ():
        for m, n in HARD_SHAPES:
            sides = m * options.width // SDXL.channels, n * options.width // SDXL.channels
            _row(report, Case(sides, name), methods, options)
    shown = real[: options.first]
    report.table(
        f"The bases of one model, {sum(case.count for case in shown)} weights",
        ("method", "seconds", "CPU seconds", "times ours", "in CPU time"),
    )
    for name, seconds in total.items():
        report.row(name, *map(float, seconds), *map(float, seconds / total[next(iter(total))]))
    report.write()


def cases(width: int) -> list[Case]:
    """Every shape and spectrum of a UNet's modules, the most frequent one first."""
    figures = SDXL if width == SDXL.channels else SDXL.narrowed(width)
    counts = Counter(
        ((module.m, module.n), spectrum_of(module.name)) for module in unet_lora_modules(figures)
    )
    return [Case(shape, name, count) for (shape, name), count in counts.most_common()]


@full_float32()
def _row(
    report: Report, case: Case, methods: dict[str, Method], options: argparse.Namespace
) -> dict[str, Timed[list[Found]]]:
    weights = torch.stack([made(case.shape, case.spectrum, i) for i in range(options.batch)])
    weights = weights.to(options.device)
    jobs = {name: lambda method=method: method(weights) for name, method in methods.items()}
    runs = in_turns(jobs, options.device, options.repeats, warm_up=options.warm_up)
    exact = [_by_svd(weight.double(), full=False, rank=effective_rank) for weight in weights]
    results = {name: run.result for name, run in runs.items()}
    first = next(iter(runs.values())).seconds
    report.row(
        "{} x {}".format(*case.shape),
        case.spectrum,
        case.count or "",
        exact[0].rank,
        *(1e3 * run.seconds / options.batch for run in runs.values()),
        *(run.seconds / first for run in list(runs.values())[1:]),
        *(max(map(_off, found, exact)) for found in results.values()),
        "all" if _same_ranks(results, exact) else _ranks(results),
    )
    return runs


def _columns(methods: dict[str, Method]) -> list[str]:
    names = list(methods)
    ratios = [f"{name} / {names[0]}" for name in names[1:]]
    off = [f"{name} is off" for name in names]
    return ["weight", "spectrum", "SDXL has", "k", *names, *ratios, *off, "k is right"]


def _same_ranks(results: dict[str, list[Found]], exact: list[Found]) -> bool:
    return all([f.rank for f in found] == [e.rank for e in exact] for found in results.values())


def _ranks(results: dict[str, list[Found]]) -> str:
    return ", ".join(f"{name} {found[0].rank}" for name, found in results.items())


def _by_svd(
    weight: torch.Tensor, full: bool, rank: Callable[[torch.Tensor, float], int] = smallest_rank
) -> Found:
    turned = not full and weight.shape[0] < weight.shape[1]
    U, S, Vh = torch.linalg.svd(weight.T if turned else weight, full_matrices=full)
    k = rank(S.double().square(), ENERGY)
    sides = (Vh[:k].T, U[:, :k]) if turned else (U[:, :k], Vh[:k].T)
    return Found(k, _shorter_first(*sides))


def _gram(weights: torch.Tensor) -> torch.Tensor:
    wide = weights if weights.shape[1] <= weights.shape[2] else weights.mT
    return wide @ wide.mT


def _by_eigenvectors(values: torch.Tensor, vectors: torch.Tensor) -> Found:
    k = smallest_rank(values.flip(0).clamp_min(0).double(), ENERGY)
    return Found(k, (vectors.flip(1)[:, :k],))


def _shorter_first(U: torch.Tensor, V: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return (U, V) if U.shape[0] <= V.shape[0] else (V, U)


def _off(found: Found, exact: Found) -> float:
    """How far the worse of its sides is from the exact one's, relative to that one's norm."""
    if found.projector is not None:
        basis = exact.bases[0]
        distance = (found.projector.double() - basis @ basis.T).square().sum()
        return math.sqrt(float(distance) / exact.rank)
    pairs = zip(found.bases, exact.bases, strict=False)  # one that gives the shorter side alone
    return max(_distance(basis.double(), other) for basis, other in pairs)


def _distance(A: torch.Tensor, B: torch.Tensor) -> float:
    """||A A^T - B B^T||_F / ||B B^T||_F, by what of each lies outside of the other."""
    outside = (A - B @ (B.T @ A)).square().sum() + (B - A @ (A.T @ B)).square().sum()
    return math.sqrt(float(outside) / B.shape[1])


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("spectrum", "a weight's subspace: ours against SVDs, a shape at a time")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each (%(default)s)")
    parser.add_argument("--batch", type=int, default=1, help="weights at a time (%(default)s)")
    parser.add_argument("--hard", action="store_true", help="white noise, clusters, equal values")
    parser.add_argument("--first", type=int, help="only so many rows of real shapes (all)")
    parser.add_argument("--width", type=int, default=SDXL.channels, help="channels (%(default)s)")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *ON_A_GPU], help="(all)")
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false")
    options = parser.parse_args(arguments)
    on_a_gpu = ON_A_GPU if options.device.type == "cuda" else {}
    options.methods = options.methods or [*METHODS, *on_a_gpu]
    return options


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
