"""A whole transfer between SDXL checkpoints on the command line, beside an older checkout's.

    python -m benchmarks.transfer --modules 60 --before ../older
    python -m benchmarks.transfer --before ../older --busy --threads 1 2
    python -m benchmarks.transfer --target ssd-1b
    python -m benchmarks.transfer --modules 60 --loras 1 8 64
    python -m benchmarks.transfer --device cuda

Run it in the repository's root. The checkpoints are generated once (files.py). `python -m prolora
transfer` runs from start to end in a process of its own, in turns with the same command of the
other checkout, whose call for several LoRAs is a call for each (one is run, and counted as often).
With --busy each case is run again while another process, which the benchmark starts, keeps a core
busy.

The floor is what operations.py counts, at the rate of one core's float32 products in the same run.
It is compared with the CPU time of the process, which other work on the machine changes little; on
a GPU, with the time on the clock.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from .agreement import agreement
from .files import SDXL_ITSELF
from .machine import product_rate
from .operations import bytes_counted, counted
from .processes import Run, neighbour
from .report import Cell, Report, parser_of
from .runs import Transfers, add_transfers, transfers

COLUMNS = (
    *("target", "LoRAs", "threads", "a core is busy", "before", "ours", "before / ours"),
    *("CPU, before", "CPU, ours", "floor", "ours / floor"),
)


@dataclass(frozen=True)
class Case:
    """What every checkout runs."""

    target: str
    loras: int
    threads: int
    busy: bool


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints what is counted, a row for each case, and whether both results agree."""
    options = _options(arguments)
    report = Report(options)
    with transfers(options) as made:
        _count(report, made)
        rate = product_rate(options.device)
        all_modules = len(made.library.modules)
        report.table(f"{len(made.modules)} modules of {all_modules}, seconds", COLUMNS)
        for case in _cases(options):
            report.row(*_row(made, case, options.repeats, rate))
        if "before" in made.checkouts and 1 in options.loras:
            _compare(report, made)
    report.say(f"The rate of a core or GPU: {rate / 1e9:.0f} GFLOP/s in float32 products.")
    report.keep("products_per_second", rate)
    report.write()


def _cases(options: argparse.Namespace) -> list[Case]:
    return [
        Case(target, loras, threads, busy)
        for target in options.target
        for loras in options.loras
        for threads in options.threads
        for busy in ([False, True] if options.busy else [False])
    ]


def _count(report: Report, made: Transfers) -> None:
    """What has to be done, and read."""
    operations = counted(made.modules, made.rank)
    moved = bytes_counted(made.modules, made.rank)
    report.table("Counted, for one LoRA from SDXL to SDXL", ("step", "TFLOP", "share"))
    for name, value in vars(operations).items():
        report.row(name.replace("_", " "), value / 1e12, value / operations.total)
    report.row("in all", operations.total / 1e12, 1)
    report.say(
        f"Read: {moved.weights / 1e9:.2f} GB of weights, {moved.loras / 1e6:.0f} MB of a LoRA; "
        f"written: {moved.results / 1e6:.0f} MB."
    )


def _row(made: Transfers, case: Case, repeats: int, rate: float) -> list[Cell]:
    loras = made.loras(case.loras)
    of_each = {"ours": loras, "before": loras[:1]}
    runs: dict[str, list[Run]] = {name: [] for name in made.checkouts}
    with neighbour(case.busy):
        for _ in range(repeats):
            for name in made.checkouts:
                run = made.run(name, case.target, of_each[name], case.threads)
                runs[name].append(run)
    seconds, cpu = ({n: _median(r, what) for n, r in runs.items()} for what in _MEASURED)
    ours, before = seconds["ours"], case.loras * seconds.get("before", 0)
    cells: list[Cell] = [case.target, case.loras, case.threads, "yes" if case.busy else "no"]
    cells += [before, ours, before / ours] if before else ["", ours, ""]
    cells += [case.loras * cpu["before"] if before else "", cpu["ours"]]
    if case.target != SDXL_ITSELF:  # pairing blocks is not counted
        return [*cells, "", ""]
    floor = counted(made.modules, made.rank, case.loras).total / rate
    return [*cells, floor, (ours if made.device.type == "cuda" else cpu["ours"]) / floor]


_MEASURED = ("seconds", "cpu_seconds")


def _median(runs: list[Run], what: str) -> float:
    return median(getattr(run, what) for run in runs)


def _compare(report: Report, made: Transfers) -> None:
    """The last results of the case of one LoRA."""
    found = agreement(*map(made.output, made.checkouts))
    report.keep("agreement", vars(found))
    report.say(
        f"Of {len(made.modules)} modules {found.ranks} have another k; Phi differs by "
        f"{found.phi:.0e} at most, an update by {found.updates:.0e}."
    )


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = "a whole transfer on the command line, beside an older checkout"
    parser = parser_of("transfer", about, several_threads=True)
    add_transfers(parser)
    parser.add_argument("--busy", action="store_true", help="also beside a busy process")
    parser.add_argument("--repeats", type=int, default=1, help="runs of each (%(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
