"""One setting at a time, on styles of rank 32: what the defaults follow from."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from benchmarks.evidence.results import Results
from benchmarks.evidence.tables import Cell, markdown, said
from demo.training.network import network_of
from prolora import TransferSettings
from prolora.adapters import Adapter
from prolora.algebra.maps import PROJECTION_MODES
from prolora.progress import silent
from prolora.recording.calibrated import PENALTY, ROOM, CalibratedMaps
from prolora.transfer.job import transfer_resolved
from prolora.transfer.maps import SubspaceMaps

from . import loras
from .effort import effort
from .measures import loss
from .models import model, network
from .rows import (
    ALL,
    KEPT,
    REFINING,
    SAMPLES,
    Case,
    as_trained,
    by_weights,
    recording,
    refined,
    resolved,
)

TARGETS = ("tuned", "hard", "pruned")
REFINED_TARGETS = ("tuned", "pruned")  # refining takes longest
ENERGIES = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)
THRESHOLDS = (0.0, 0.5, 0.8, 0.9, 0.95, 1.0)
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
PENALTIES = (0.3, 1.0, 3.0, 10.0)
STEPS = (10, 25, 50)
OWN = (0.0, 0.3, 0.6)
SAMPLE_COUNTS = (16, 64)

Way = Callable[[], Sequence[Adapter]]


def results() -> Results:
    path = effort().results / "fidelity_ablations.csv"
    return Results(path, ("target", "name", "seed", "setting", "value"), ("loss",))


def settings_of(case: Case) -> Iterator[tuple[str, float, Way]]:
    """A setting's name, its value, and the LoRA moved with it."""

    def by(**chosen: object) -> Way:
        return lambda: by_weights(case, replace(ALL, **chosen))

    for mode in ("subspace", "prolora", "full"):
        for energy in ENERGIES:
            yield f"energy, {mode}", energy, by(mode=mode, subspace_energy=energy)
    for threshold in THRESHOLDS:
        yield "threshold, full", threshold, by(mode="full", threshold=threshold)
    for rank in RANKS:
        yield "rank, full", rank, by(mode="full", rank=rank)
    for threshold in THRESHOLDS:
        chosen = replace(ALL, mode="calibrated", threshold=threshold)
        yield "threshold, calibrated", threshold, lambda c=chosen: _calibrated(case, c)
    for penalty in PENALTIES:
        chosen = replace(ALL, mode="calibrated")
        yield "penalty, calibrated", penalty, lambda c=chosen, p=penalty: _calibrated(case, c, p)
    if case.target in REFINED_TARGETS:
        for steps in STEPS:
            yield "steps, refined", steps, _refined(case, steps=steps)
        for own in OWN:
            yield "own, refined", own, _refined(case, own=own)
        for samples in SAMPLE_COUNTS:
            yield "samples, refined", samples, lambda n=samples: refined(case, samples=n)


def _calibrated(
    case: Case, settings: TransferSettings, penalty: float = PENALTY
) -> Sequence[Adapter]:
    lora, heard = resolved(case.source), recording(case.source, False, SAMPLES)
    base = SubspaceMaps(PROJECTION_MODES["alike"], settings.subspace_energy, KEPT)
    running = network_of(network(case.target))
    maps = CalibratedMaps(lora, heard, running, None, base, silent, ROOM, penalty)
    return transfer_resolved(lora, model(case.target), settings, maps=maps, kept=KEPT).adapters


def _refined(case: Case, **chosen: float) -> Way:
    return lambda: refined(case, replace(REFINING, **chosen))


def cases(seeds: Sequence[int]) -> Iterator[Case]:
    for seed in seeds:
        for subject in loras.STYLES:
            if subject.rank == 32:
                for target in TARGETS:
                    yield Case(target, subject, seed)


def measure(case: Case, into: Results, one_value: bool = False) -> None:
    """What is not known of a case; the ends of its shares are those of the main results.

    Args:
        one_value: of each setting, the last one.
    """
    key = (case.target, case.subject.name, case.seed)
    ends = {"none": lambda: None, "retrained": lambda: as_trained(case.retrained)}
    for end, way in ends.items():
        if not into.known(*key, end, 0):
            into.add(*key, end, 0, loss=loss(case, way()))
    chosen = list(settings_of(case))
    if one_value:
        chosen = list({of[0]: of for of in chosen}.values())
    for setting, value, way in chosen:
        if not into.known(*key, setting, f"{value:g}"):
            into.add(*key, setting, f"{value:g}", loss=loss(case, way()))
    print("ablations", *key, flush=True)


# --- tables -------------------------------------------------------------------------------------

_Shares = Mapping[tuple[str, str], list[float]]


def shares(lines: Sequence[Mapping[str, str]]) -> _Shares:
    """(setting, value) -> the share of the retrained gain in each case."""
    losses: dict[tuple[str, ...], dict[tuple[str, str], float]] = {}
    for line in lines:
        case = (line["target"], line["name"], line["seed"])
        losses.setdefault(case, {})[line["setting"], line["value"]] = float(line["loss"])
    found: dict[tuple[str, str], list[float]] = {}
    for of in losses.values():
        none, ceiling = of.get(("none", "0")), of.get(("retrained", "0"))
        if none is None or ceiling is None:
            continue
        for at, value in of.items():
            found.setdefault(at, []).append((none - value) / (none - ceiling))
    return found


def tables(lines: Sequence[Mapping[str, str]]) -> str:
    """A table a group of settings; values are its columns."""
    found = shares(lines)
    groups = {
        "subspace_energy": (ENERGIES, [f"energy, {m}" for m in ("subspace", "prolora", "full")]),
        "threshold": (THRESHOLDS, ["threshold, full", "threshold, calibrated"]),
        "rank of the result": (RANKS, ["rank, full"]),
        "penalty of the ridge": (PENALTIES, ["penalty, calibrated"]),
        "steps": (STEPS, ["steps, refined"]),
        "own": (OWN, ["own, refined"]),
        "samples of the recording": (SAMPLE_COUNTS, ["samples, refined"]),
    }
    parts = []
    for head, (values, settings) in groups.items():
        rows: list[list[Cell]] = [
            [s.split(", ")[1], *(said(found.get((s, f"{v:g}"), [])) for v in values)]
            for s in settings
        ]
        parts.append(markdown([head, *(f"{v:g}" for v in values)], rows))
    return "\n\n".join(parts)
