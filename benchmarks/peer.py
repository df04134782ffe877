"""A transfer beside the other published procedure for it: CASA's, by its authors' own code.

    python -m benchmarks.peer --casa ../CASA
    python -m benchmarks.peer --casa ../CASA --each 4 --threads 1
    python -m benchmarks.peer --casa ../CASA --device cuda

Run it in the repository's root. --casa names a checkout of github.com/Noahwangyuchen/CASA (it was
tried with d7c8310); nothing of it is in this repository. Its procedure moves a LoRA in three steps,
and the benchmark goes through the same, on the same weights, module by module:

- *SVD* of the source weight, once a model: `torch.linalg.svd(full_matrices=True)` in float32, its
  results rounded to bfloat16, as in examples/compute_svd_example.py;
- *drift*, once a pair of models: the difference of both weights in those bases, with the source put
  together again from them, as in examples/compute_cfft_example.py;
- *arbitration*, once a LoRA: transfer.cluster_aware_spectral_arbitration, with its defaults.

Its scripts keep all of that in pickles between the steps; here it stays in memory, which is to its
advantage. Ours moves the same modules from the same files by `transfer_jobs`, in mode `full` with
the default settings (or another --mode); finding the modules' places in the models, a tenth of a
second a LoRA, is left out. Both take turns, a shape at a time. The totals for all of SDXL's modules
are extrapolated: each shape's mean time, times how many modules have it; the arbitration of one
LoRA is timed, and counted as often as there are LoRAs.
"""

import argparse
import contextlib
import io
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from prolora import TransferSettings, load_checkpoint, read_adapter_file
from prolora.adapters import AdapterFile, LoraAdapter
from prolora.algebra.precision import full_float32
from prolora.models.model import Model
from prolora.transfer.job import Job, prepare_job, transfer_jobs
from prolora.transfer.resolve import resolve

from .files import add_library, by_shape, into_page_cache, library_of
from .report import Cell, Report, parser_of
from .timing import Timed, timed

# (B, A, U, S, Vh, drift) -> the two factors for the target; it prints as it goes.
Arbitrate = Callable[..., tuple[torch.Tensor, torch.Tensor]]


# Seconds on the clock, and of CPU time.
Seconds = NDArray[np.float64]


@dataclass(frozen=True)
class Steps:
    """What CASA's three steps take."""

    svd: Seconds
    drift: Seconds
    arbitration: Seconds

    def __add__(self, other: "Steps") -> "Steps":
        return Steps(**{name: a + vars(other)[name] for name, a in vars(self).items()})

    def __mul__(self, factor: float) -> "Steps":
        return Steps(**{name: factor * value for name, value in vars(self).items()})

    def seconds(self, loras: int) -> Seconds:
        """Of so many LoRAs."""
        return self.svd + self.drift + loras * self.arbitration


NOTHING = Steps(*np.zeros((3, 2)))


@dataclass(frozen=True)
class Peer:
    """CASA's procedure between two models, on one device."""

    arbitrate: Arbitrate
    source: Model
    target: Model
    device: torch.device

    def moved(self, lora: AdapterFile) -> Steps:
        """Moves all modules of a LoRA, one after the other; what comes of it is dropped."""
        steps = (self._module(adapter) for adapter in lora.adapters)
        return sum(steps, start=NOTHING)

    def _module(self, adapter: LoraAdapter) -> Steps:
        bases = timed(lambda: self._bases(adapter), self.device)
        drift = timed(lambda: self._drift(adapter, *bases.result), self.device)
        arbitrated = timed(
            lambda: self._arbitrated(adapter, *bases.result, drift.result), self.device
        )
        return Steps(*map(both, (bases, drift, arbitrated)))

    def _bases(self, adapter: LoraAdapter) -> tuple[torch.Tensor, ...]:
        weight = self._read(self.source, adapter)
        return tuple(x.bfloat16() for x in torch.linalg.svd(weight, full_matrices=True))

    def _drift(
        self, adapter: LoraAdapter, U: torch.Tensor, S: torch.Tensor, Vh: torch.Tensor
    ) -> torch.Tensor:
        U, S, Vh = U.float(), S.float(), Vh.float()
        source = U[:, : len(S)] @ torch.diag(S) @ Vh[: len(S)]
        return (U.T @ (self._read(self.target, adapter) - source) @ Vh.T).bfloat16()

    def _arbitrated(self, adapter: LoraAdapter, *known: torch.Tensor) -> object:
        up, down = (factor.to(self.device).float() for factor in (adapter.up, adapter.down))
        with contextlib.redirect_stdout(io.StringIO()):
            return self.arbitrate(up, down, *(tensor.float() for tensor in known))

    def _read(self, model: Model, adapter: LoraAdapter) -> torch.Tensor:
        place = model.resolve(adapter.name)
        assert place is not None
        return model.weight(place, self.device, torch.float32).flatten(1)


@dataclass(frozen=True)
class Measured:
    """Modules of one shape.

    Attributes:
        shape: m x n.
        count: how many SDXL has.
        casa, ours: of one module; ours for so many LoRAs in one call.
    """

    shape: str
    count: int
    casa: Steps
    ours: dict[int, Seconds]


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each shape, and what they make for SDXL."""
    options = _options(arguments)
    report = Report(options)
    library = library_of(options)
    for path in (library.source(), library.target()):
        into_page_cache(path)
    source, target = load_checkpoint(library.source()), load_checkpoint(library.target())
    peer = Peer(casa_of(options.casa), source, target, options.device)
    settings = TransferSettings(options.mode, device=options.device)
    report.table(
        f"Milliseconds a module, of {options.each} of each shape",
        (
            *("weight", "SDXL has", "SVD", "drift", "arbitration"),
            *(f"ours, LoRAs: {n}" for n in options.loras),
            *(f"CASA / ours, LoRAs: {n}" for n in options.loras),
        ),
    )
    found = []
    for (m, n), alike in by_shape(library.modules).items():
        chosen = alike[:: -(-len(alike) // options.each)]
        files = [read_adapter_file(p) for p in library.loras(chosen, max(options.loras))]
        jobs = [prepare_job(resolve(file, source), target, settings) for file in files]
        casa = peer.moved(files[0])
        ours = {k: _seconds(jobs[:k], options.device) / len(chosen) for k in options.loras}
        found.append(Measured(f"{m} x {n}", len(alike), casa * (1 / len(chosen)), ours))
        report.row(*_cells(found[-1]))
    _say_totals(report, found, options.loras)
    report.write()


def _seconds(jobs: Sequence[Job], device: torch.device) -> Seconds:
    """Of ours, in one call."""
    return both(timed(lambda: transfer_jobs(jobs), device))


def both(run: Timed[object]) -> Seconds:
    return np.array([run.seconds, run.cpu_seconds])


def _cells(found: Measured) -> list[Cell]:
    return [
        *(found.shape, found.count),
        *(1e3 * float(value[0]) for value in vars(found.casa).values()),
        *(1e3 * float(value[0]) for value in found.ours.values()),
        *(float(found.casa.seconds(k)[0] / value[0]) for k, value in found.ours.items()),
    ]


def _say_totals(report: Report, found: Sequence[Measured], counts: Sequence[int]) -> None:
    casa = sum((of_shape.casa * of_shape.count for of_shape in found), start=NOTHING)
    modules = sum(of_shape.count for of_shape in found)
    columns = ("LoRAs", "CASA", "of it SVDs", "drift", "arbitration", "ours", "CASA / ours")
    report.table(
        f"All {modules} modules, seconds, extrapolated by shape", (*columns, "in CPU time")
    )
    for k in counts:
        ours = sum(of_shape.ours[k] * of_shape.count for of_shape in found)
        parts = casa.seconds(k), casa.svd, casa.drift, k * casa.arbitration, ours
        report.row(k, *(float(part[0]) for part in parts), *map(float, casa.seconds(k) / ours))


def casa_of(checkout: Path) -> Arbitrate:
    """Its function, which imports the file `utils` beside it by that name."""
    sys.path.insert(0, str(checkout.resolve()))
    try:
        found: Arbitrate = import_module("transfer").cluster_aware_spectral_arbitration
    finally:
        sys.path.pop(0)
        for name in ("transfer", "utils"):
            sys.modules.pop(name, None)
    return found


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("peer", "a transfer beside CASA's published procedure")
    add_library(parser, modules=False)
    parser.add_argument("--casa", type=Path, required=True, help="a checkout of its repository")
    parser.add_argument("--each", type=int, default=2, help="modules of a shape (%(default)s)")
    parser.add_argument("--loras", type=int, nargs="+", default=[1, 8], help="in one call (1 8)")
    parser.add_argument("--mode", default="full", help="of ours (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    with full_float32():
        main()
