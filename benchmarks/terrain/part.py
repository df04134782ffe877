"""Downloads, trains, measures and draws what is missing."""

import time
from collections.abc import Iterator, Sequence
from itertools import permutations, product
from statistics import median

import torch

from benchmarks.evidence.results import FOLDER as RESULTS
from benchmarks.evidence.results import Results

from . import loras, models
from .maps import CHANGES, SIDE
from .measures import COLUMNS, measured
from .picture import FILE, draw
from .rows import LISTENING, WAYS, Case, forget, recording
from .unet import SIGMA_MAX

QUICK = models.FOLDER / "quick"
QUICK_ROWS = ("none", "retrained", "copy", "full")


def cases(
    seeds: Sequence[int] = loras.SEEDS, changes: Sequence[str] = tuple(CHANGES)
) -> Iterator[Case]:
    """All of one direction come before the other."""
    for (source, target), seed, change in product(permutations(models.VERSIONS), seeds, changes):
        yield Case(source, target, change, seed)


def results(is_quick: bool = False) -> Results:
    folder = QUICK if is_quick else RESULTS
    keys = ("source", "target", "change", "seed", "row")
    return Results(folder / "terrain.csv", keys, (*COLUMNS, "seconds"))


def facts(is_quick: bool = False) -> Results:
    """What is known of both versions and of the run."""
    return Results((QUICK if is_quick else RESULTS) / "terrain_facts.csv", ("what",), ("value",))


def run(quick: bool) -> None:
    """Some 30 minutes of one core; with `quick` one case in some two."""
    torch.set_num_threads(1)
    into, known = results(quick), facts(quick)
    describe(known)
    some = list(cases(loras.SEEDS[:1], ["inverted"]))[:1] if quick else list(cases())
    for job in loras.jobs([case.seed for case in some], [case.change for case in some]):
        seconds = loras.train(job)
        known.add(f"training {job.path.stem}", value=seconds)
        print(job.path.stem, f"{seconds:.0f} s", flush=True)
    for case in some:
        measure(case, into, known, QUICK_ROWS if quick else tuple(WAYS))
    if not quick and not FILE.is_file():
        draw(some[0])


def measure(case: Case, into: Results, known: Results, rows: Sequence[str]) -> None:
    """The rows of a case that are not known yet; what several of them listen to is timed apart."""
    key = (case.source, case.target, case.change, case.seed)
    missing = [row for row in rows if not into.known(*key, row)]
    if LISTENING & set(missing):
        start = time.process_time()
        recording(case.lora)
        if not known.known(what := f"recording {case.lora.path.stem}"):
            known.add(what, value=time.process_time() - start)
    for row in missing:
        start = time.process_time()
        adapters = WAYS[row](case)
        seconds = time.process_time() - start
        beside = case.retrained if row == "retrained again" else None
        into.add(*key, row, **measured(case, adapters, beside), seconds=seconds)
    forget()
    print(*key, flush=True)


def describe(known: Results) -> None:
    """Notes what tells one version from the other, and that our module does what the graphs do."""
    found = {
        "parameters": lambda: sum(p.numel() for p in models.network("0.4.1").parameters()),
        "median drift": lambda: median(models.drifts()),
        "largest drift": lambda: max(models.drifts()),
        **{f"off {v}": lambda v=v: models.disagreement(v) for v in models.VERSIONS},
        **{f"apart at {side}": lambda side=side: apart(side) for side in (128, SIDE)},
    }
    for what, value in found.items():
        if not known.known(what):
            known.add(what, value=value())


@torch.no_grad()
def apart(side: int) -> float:
    """How far the one-step maps of both versions differ, beside the first one's deviation."""
    generator = torch.Generator().manual_seed(1)
    noise = SIGMA_MAX * torch.randn(16, 1, side, side, generator=generator)
    given = torch.full((16,), SIGMA_MAX), torch.linspace(0, 1, 16)
    first, second = (models.network(version)(noise, *given) for version in models.VERSIONS)
    own = first - first.mean(dim=(1, 2, 3), keepdim=True)
    return float((second - first).norm() / own.norm())
