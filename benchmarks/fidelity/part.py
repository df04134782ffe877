"""Trains what is missing, measures what is missing, writes the tables."""

import time
from collections.abc import Iterator, Sequence

from benchmarks.evidence.results import BUILD, FOLDER, Results

from . import loras, models
from .descriptor import descriptor
from .measures import COLUMNS, measured
from .rows import Case, ways

KEYS = ("target", "kind", "name", "family", "rank", "seed", "row")


def results(folder: str = "") -> Results:
    path = (BUILD / folder if folder else FOLDER) / "fidelity.csv"
    return Results(path, KEYS, (*COLUMNS, "seconds"))


def cases(
    seeds: Sequence[int] = loras.SEEDS, targets: Sequence[str] = models.TARGETS
) -> Iterator[Case]:
    """All of one seed come before the next."""
    for seed in seeds:
        for subject in loras.SUBJECTS:
            for target in targets:
                case = Case(target, subject, seed)
                if case.retrained.is_sensible:
                    yield case


def measure(case: Case, into: Results) -> None:
    """The rows of a case that are not known yet."""
    subject = case.subject
    key = (case.target, subject.kind, subject.name, subject.family, subject.rank, case.seed)
    for row, way in ways(case).items():
        if into.known(*key, row):
            continue
        start = time.process_time()
        adapters = way()
        seconds = time.process_time() - start
        into.add(*key, row, **measured(case, adapters), seconds=seconds)
    print(*key, flush=True)


def run(quick: bool) -> None:
    """Trains the models, then seed by seed the LoRAs, and measures every row."""
    descriptor()
    models.train_missing()
    for seed in loras.SEEDS:
        loras.train_missing(loras.times(), seeds=[seed])
        for case in cases([seed]):
            measure(case, results())
