"""Trains what is missing, measures what is missing, writes the tables."""

import time
from collections.abc import Iterator, Sequence

from benchmarks.evidence.page import write_section
from benchmarks.evidence.results import Results

from . import ablations, loras, models, tables
from .descriptor import descriptor
from .effort import FULL, QUICK, choose, effort
from .measures import COLUMNS, measured
from .rows import SAMPLES, Case, recording, ways
from .sheet import PICTURE, write_picture
from .tables import Found, read, where

KEYS = ("target", "kind", "name", "family", "rank", "seed", "row")


def results() -> Results:
    return Results(effort().results / "fidelity.csv", KEYS, (*COLUMNS, "seconds"))


# What a quick run measures.
ONE_OF_EACH = (
    Case("tuned", loras.Subject("style", "cyanotype", rank=32), 1),
    Case("distilled", loras.Subject("style", "cyanotype", rank=32), 1),
    Case("pruned", loras.Subject("concept", "clock"), 1),
    Case("hard", loras.DORA, 1),
    Case("deepened", loras.FOURA, 1),
    Case("tuned", loras.FAST, 1),
)


def cases(
    seeds: Sequence[int] = loras.SEEDS, targets: Sequence[str] = models.TARGETS
) -> Iterator[Case]:
    """All of one seed come before the next."""
    for seed in seeds:
        for subject in loras.SUBJECTS:
            for target in targets:
                case = Case(target, subject, seed)
                if case.retrained.is_wanted:
                    yield case


def measure(case: Case, into: Results) -> None:
    """The rows of a case that are not known yet."""
    subject = case.subject
    key = (case.target, subject.kind, subject.name, subject.family, subject.rank, case.seed)
    unknown = {row: way for row, way in ways(case).items() if not into.known(*key, row)}
    if unknown:
        record_once(case)
    for row, way in unknown.items():
        start = time.process_time()
        adapters = way()
        seconds = time.process_time() - start
        into.add(*key, row, **measured(case, adapters), seconds=seconds)
    print(*key, flush=True)


def recordings() -> Results:
    """What each recording took."""
    path = effort().results / "fidelity_recordings.csv"
    return Results(path, ("subject", "seed", "few_steps"), ("seconds",))


def record_once(case: Case) -> None:
    """Makes the recording that several rows share, so that none of them counts its time."""
    few_steps = case.target == models.DISTILLED
    start = time.process_time()
    recording(case.source, few_steps, SAMPLES)
    into, key = recordings(), (str(case.subject), case.seed, few_steps)
    if not into.known(*key):
        into.add(*key, seconds=time.process_time() - start)


def run(quick: bool) -> None:
    """Trains the models, then seed by seed the LoRAs, and measures every row.

    Args:
        quick: one case of each table, everything trained for a twenty-fifth of its steps.
    """
    choose(QUICK if quick else FULL)
    descriptor()
    models.train_missing()
    if quick:
        for case in ONE_OF_EACH:
            loras.train_missing(loras.times(), [models.SOURCE, case.target], [case.subject], [1])
            measure(case, results())
        ablations.measure(ONE_OF_EACH[0], ablations.results(), one_value=True)
        return
    for seed in loras.SEEDS:
        loras.train_missing(loras.times(), seeds=[seed])
        for case in cases([seed]):
            measure(case, results())
        for case in ablations.cases([seed]):
            ablations.measure(case, ablations.results())
    if not PICTURE.is_file():
        write_picture()


def report() -> None:
    """Writes the tables from what was measured."""
    for name, text in sections().items():
        write_section(f"fidelity-{name}", text)


def sections() -> dict[str, str]:
    found = read(results().rows())
    kinds = {
        "styles": lambda key: key.kind == "style" and (key.family, key.rank) == ("lora", 32),
        "concepts": lambda key: key.kind == "concept" and key.rank == 8,
        "dora": lambda key: key.family == "dora",
        "foura": lambda key: key.family == "foura",
        "fast": lambda key: key.kind == "fast",
    }
    written = {
        "models": tables.models_table(models.results().rows()),
        "shares": tables.share_table(
            where(found, lambda key: key.kind in ("style", "concept") and key.is_usual),
            models.TARGETS,
            ("copy", "prolora", "full", "casa", "theseus", "calibrated", "refined"),
        ),
        "ranks": tables.rank_table(found),
        "ablations": ablations.tables(ablations.results().rows()),
        "all": tables.test_table(where(found, lambda key: key.kind != "fast")),
        "times": tables.time_table(loras.times().rows(), recordings().rows(), found),
    }
    for name, is_wanted in kinds.items():
        written[name] = _tables_of(where(found, is_wanted), SEEN[name])
    return written


# What the pictures of a table's subjects are judged by.
SEEN = {
    "styles": ("mmd", "style", "subject", "diversity", "kept"),
    "concepts": ("similarity", "subject", "diversity", "kept"),
    "dora": ("mmd", "style", "subject", "diversity", "kept"),
    "foura": ("mmd", "style", "subject", "diversity", "kept"),
    "fast": ("subject", "diversity"),
}
EFFECT = ("error", "cosine", "retention")


def _tables_of(found: Found, seen: Sequence[str]) -> str:
    alike = where(found, lambda key: key.target != models.DISTILLED)
    few_steps = where(found, lambda key: key.target == models.DISTILLED)
    targets = [t for t in models.TARGETS if any(key.target == t for key in found)]
    parts = [
        tables.share_table(found, targets),
        "Paired tests of the share, the step-distilled target apart:",
        tables.test_table(alike),
        "What it does, and what is drawn; mean over all targets but the step-distilled one:",
        tables.measure_table(alike, (*EFFECT, *seen)),
    ]
    if few_steps:
        parts += [
            "The same on the step-distilled target, in its four steps:",
            tables.measure_table(few_steps, (*EFFECT, *seen)),
        ]
    return "\n\n".join(parts)
