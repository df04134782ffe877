"""The tables of docs/evidence.md from what part.py measured."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, median

from benchmarks.evidence.tables import (
    FEWEST,
    PAIRED_HEADER,
    Cell,
    markdown,
    paired_over,
    said,
)

from .loras import CONCEPTS, STYLES, Subject
from .models import DISTILLED, MODELS
from .rows import BY_DEFAULT

ROWS = (
    *("none", "retrained", "copy", "alike", "subspace", "prolora", "full"),
    *("casa", "casa of nothing"),
    *("orthogonal", "theseus", "calibrated", "refined", BY_DEFAULT),
)
AGAIN = "retrained, another seed"
RIVALS = ("copy", "full", "calibrated")
STYLES_32 = [str(subject) for subject in STYLES if subject.rank == 32]
CONCEPTS_8 = [str(subject) for subject in CONCEPTS if subject.rank == 8]
# Columns of the second table -> what their head says.
MEASURES = {
    "error": "error",
    "cosine": "cosine",
    "retention": "retention",
    "mmd": "style MMD",
    "style": "style seen",
    "subject": "subject right",
    "similarity": "similarity",
    "diversity": "diversity",
    "kept": "own kept",
}


@dataclass(frozen=True)
class Key:
    """A case: one LoRA, trained with one seed, on one target."""

    target: str
    kind: str
    name: str
    family: str
    rank: int
    seed: int

    @property
    def is_usual(self) -> bool:
        """A LoRA at the rank at which its kind is drawn."""
        return Subject(self.kind, self.name, self.family, self.rank).is_drawn and (
            self.family == "lora"
        )


# Case -> row -> column -> value.
Found = Mapping[Key, Mapping[str, Mapping[str, float]]]


def read(lines: Iterable[Mapping[str, str]]) -> Found:
    """Lines of the results; empty cells are left out."""
    found: dict[Key, dict[str, dict[str, float]]] = defaultdict(dict)
    for line in lines:
        at = [line[name] for name in ("target", "kind", "name", "family")]
        key = Key(*at, int(line["rank"]), int(line["seed"]))
        known = ("target", "kind", "name", "family", "rank", "seed", "row")
        values = {n: float(v) for n, v in line.items() if n not in known and v != ""}
        found[key][line["row"]] = values
    return found


def where(found: Found, is_wanted: Callable[[Key], bool]) -> Found:
    return {key: rows for key, rows in found.items() if is_wanted(key)}


def shares(found: Found) -> Mapping[Key, Mapping[str, float]]:
    """Of what the LoRA trained anew gains in loss: 0 without a LoRA, 1 for that one.

    Of a step-distilled target the loss is how far its pictures are from the source's, and 1 is no
    distance. A case without both ends is left out. AGAIN is the one that was trained anew with
    the next seed, in terms of this one's gain: the noise floor.
    """
    shared: dict[Key, dict[str, float]] = {}
    for key, rows in found.items():
        if not {"none", "retrained"} <= rows.keys():
            continue
        none = rows["none"]["loss"]
        ceiling = 0.0 if _by_distance(key) else rows["retrained"]["loss"]
        shared[key] = {row: (none - of["loss"]) / (none - ceiling) for row, of in rows.items()}
        if (again := _another(found, key)) and not _by_distance(key):
            shared[key][AGAIN] = (none - again["loss"]) / (none - ceiling)
    return shared


def _by_distance(key: Key) -> bool:
    return key.target == DISTILLED and key.kind != "fast"


def _another(found: Found, key: Key) -> Mapping[str, float] | None:
    """What was measured of the LoRA that was trained anew with the next seed, in a circle."""
    seeds = sorted({k.seed for k in found if _but_seed(k) == _but_seed(key)})
    if len(seeds) < 2:
        return None
    seed = seeds[(seeds.index(key.seed) + 1) % len(seeds)]
    at = Key(key.target, key.kind, key.name, key.family, key.rank, seed)
    return found[at].get("retrained")


def _but_seed(key: Key) -> tuple[str, str, str, str, int]:
    return key.target, key.kind, key.name, key.family, key.rank


# --- tables -------------------------------------------------------------------------------------


def of_three_seeds(values: Mapping[Key, float]) -> str:
    """Mean and deviation; "-" where fewer than three seeds are behind it."""
    if len({key.seed for key in values}) < FEWEST:
        return "-"
    return said(list(values.values()))


def share_table(
    found: Found, targets: Sequence[str], rows: Sequence[str] = (*ROWS[1:], AGAIN)
) -> str:
    """Rows by targets: mean and deviation over the LoRAs and seeds."""
    of = shares(found)
    lines: list[list[Cell]] = []
    for row in rows:
        cells = [
            of_three_seeds(
                {key: by[row] for key, by in of.items() if key.target == target and row in by}
            )
            for target in targets
        ]
        if any(row in by for by in of.values()):
            lines.append([f"*{row}*" if row == AGAIN else row, *cells])
    return markdown(["share of the gain", *targets], lines)


def measure_table(found: Found, columns: Sequence[str]) -> str:
    """Rows by measures: mean and deviation over targets, LoRAs and seeds; then the noise floor."""
    lines: list[list[Cell]] = []
    for row in ROWS:
        cells = [
            of_three_seeds(
                {key: by[row][c] for key, by in found.items() if row in by and c in by[row]}
            )
            for c in columns
        ]
        if any(cell != "-" for cell in cells):
            lines.append([row, *cells])
    floor = [_floor(found, column) for column in columns]
    lines.append(["*noise floor*", *floor])
    return markdown(["", *(MEASURES[column] for column in columns)], lines)


def _floor(found: Found, column: str) -> str:
    """Mean difference of two LoRAs that were trained anew with other seeds."""
    apart = []
    for key, rows in found.items():
        again, here = _another(found, key), rows.get("retrained", {})
        if again and column in again and column in here:
            apart.append(abs(again[column] - here[column]))
    return f"{mean(apart):.3f}" if apart else "-"


def test_table(found: Found, rows: Sequence[str] = ROWS) -> str:
    """Paired tests of shares over the same cases, without those of the distilled target."""
    of = {key: by for key, by in shares(found).items() if key.target != DISTILLED}
    lines = []
    for row in rows:
        for rival in RIVALS:
            if row in (rival, "none", "retrained"):
                continue
            both = {key: by for key, by in of.items() if row in by and rival in by}
            if len({key.seed for key in both}) < FEWEST:
                continue
            ours, theirs = ({k: by[name] for k, by in both.items()} for name in (row, rival))
            if line := paired_over(row, rival, ours, theirs):
                lines.append(line)
    return markdown(PAIRED_HEADER, lines)


def models_table(lines: Iterable[Mapping[str, str]]) -> str:
    """What each model is, took and has learned."""
    known = {line["model"]: line for line in lines}
    rows = [
        [
            name,
            kind.about,
            f"{float(line['drift']):.2f}" if name != "a" else "-",
            f"{float(line['loss']):.3f}",
            f"{float(line['seconds']):.0f} s",
        ]
        for name, kind in MODELS.items()
        if (line := known.get(name))
    ]
    header = ["model", "what it is", "drift", "loss on its pictures", "CPU time of training"]
    return markdown(header, rows)


def rank_table(found: Found) -> str:
    """Shares by the rank of the LoRA, over all targets but the distilled one."""
    of = {key: by for key, by in shares(found).items() if key.target != DISTILLED}
    groups = [(kind, rank) for kind in ("style", "concept") for rank in (8, 32)]
    lines = []
    for row in (*ROWS, AGAIN):
        if row == "none":
            continue
        cells = [
            of_three_seeds(
                {
                    key: by[row]
                    for key, by in of.items()
                    if (key.kind, key.rank, key.family) == (kind, rank, "lora") and row in by
                }
            )
            for kind, rank in groups
        ]
        if any(cell != "-" for cell in cells):
            lines.append([f"*{row}*" if row == AGAIN else row, *cells])
    header = ["share of the gain", *(f"{kind}s, rank {rank}" for kind, rank in groups)]
    return markdown(header, lines)


def time_table(
    trained: Iterable[Mapping[str, str]], recorded: Iterable[Mapping[str, str]], found: Found
) -> str:
    """Median CPU time of a LoRA: trained on a target, recorded once, and moved in each way."""
    spent: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for line in trained:
        spent["trained on the target"][line["subject"]].append(float(line["seconds"]))
    for line in recorded:
        if line["few_steps"] == "False":
            spent["recorded, for all targets"][line["subject"]].append(float(line["seconds"]))
    for key, rows in found.items():
        for row, of in rows.items():
            if row not in ("none", "retrained") and "seconds" in of:
                subject = f"{key.name}_{key.family}_{key.rank}"
                spent[f"moved, {row}"][subject].append(of["seconds"])
    subjects = {"a style, rank 32": STYLES_32, "a concept, rank 8": CONCEPTS_8}
    lines = []
    for way, by in spent.items():
        cells = []
        for names in subjects.values():
            seconds = [value for name in names for value in by.get(name, [])]
            cells.append(f"{median(seconds):.1f} s" if seconds else "-")
        if any(cell != "-" for cell in cells):
            lines.append([way, *cells])
    return markdown(["CPU time", *subjects], lines)
