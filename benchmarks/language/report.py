"""The tables of the language models, from the results that are there."""

from collections.abc import Iterable, Mapping, Sequence

from benchmarks.evidence.page import write_section
from benchmarks.evidence.tables import (
    PAIRED_HEADER,
    Cell,
    markdown,
    paired_over,
    said,
)

from .part import results_of
from .rows import ALIKE, HALF
from .setting import WHOLE

Case = tuple[str, str]  # way and seed
Values = Mapping[str, float]
Found = Mapping[str, Mapping[Case, Values]]  # row -> case -> column -> value

ORDER = (
    *("none", "retrained", "copy", HALF, "subspace", "prolora", "full", "casa", "casa of nothing"),
    *("orthogonal", "theseus", "calibrated", "refined"),
)
AGAIN = "retrained, another seed"
# Of the shares of the gain it is asked whether the first has more than the second.
ASKED = (
    *(("full", "copy"), ("prolora", "copy"), ("subspace", "copy"), ("casa", "copy")),
    *((HALF, "copy"), ("prolora", HALF), ("refined", HALF)),
    *(("orthogonal", "copy"), ("theseus", "copy"), ("calibrated", "copy")),
    *(("calibrated", "full"), ("refined", "calibrated"), (AGAIN, "copy")),
)
_COLUMNS = ("loss", "rouge", "other", "drift")
_NOTHING = "*Not measured yet: `python -m benchmarks.evidence language`.*"
_NAMES = {"target to source": "source", "source to target": "target"}  # where a way ends


def report() -> None:
    """Writes the tables of docs/evidence.md."""
    found = read(results_of(WHOLE).rows())
    for name, table in (("models", models), ("rows", rows), ("tests", tests)):
        write_section(f"language-{name}", table(found) if found["none"] else _NOTHING)


def read(lines: Iterable[Mapping[str, str]]) -> Found:
    """Lines of the results. What is measured once counts for every LoRA of its way."""
    found: dict[str, dict[Case, Values]] = {}
    for line in lines:
        values = {name: float(line[name]) for name in _COLUMNS if line[name]}
        found.setdefault(line["row"], {})[line["way"], line["seed"]] = values
    cases = found.get("retrained", {})
    for row in ("none", *ALIKE):
        of_way = {way: values for (way, _), values in found.get(row, {}).items()}
        found[row] = {case: of_way[case[0]] for case in cases if case[0] in of_way} | {
            case: values for case, values in found.get(row, {}).items() if row == "none"
        }
    return found


def models(found: Found) -> str:
    """What the fine-tuning did to the model."""
    header = ("model, without a LoRA", "drift", "reference", "other text", "task", "ROUGE-L")
    lines: list[list[Cell]] = []
    for way, name in _NAMES.items():
        bare = found["none"].get((way, "-"))
        reference = found.get("reference text", {}).get((way, "-"))
        if bare and reference:
            values = [bare[column] for column in ("other", "loss", "rouge")]
            lines.append([name, bare["drift"], reference["other"], *values])
    return markdown(header, lines)


def rows(found: Found) -> str:
    """Every row over all cases, one way beside the other."""
    header = ("row", *(f"share, to the {name}" for name in _NAMES.values()))
    lines: list[list[Cell]] = []
    for row, of in shares(found).items():
        of_ways = [said([s for case, s in of.items() if case[0] == way]) for way in _NAMES]
        values = [_all(found, row, name) for name in ("loss", "rouge", "other")]
        lines.append([row, *of_ways, said(list(of.values())), *values])
    return markdown((*header, "share, both", "task", "ROUGE-L", "other text"), lines)


def tests(found: Found) -> str:
    """The paired tests of the shares."""
    of = shares(found)
    lines = [paired_over(row, rival, of.get(row, {}), of.get(rival, {})) for row, rival in ASKED]
    return markdown(PAIRED_HEADER, list(filter(None, lines)))


def shares(found: Found) -> Mapping[str, Mapping[Case, float]]:
    """Of the gain in loss of the LoRA that was trained anew: row -> case -> share.

    AGAIN is the one that was trained anew with the next seed, in terms of this one's gain.
    """
    retrained = found.get("retrained", {})
    losses = {row: {c: v["loss"] for c, v in found.get(row, {}).items()} for row in ORDER}
    losses[AGAIN] = {case: retrained[_next(case, retrained)]["loss"] for case in retrained}
    return {
        row: {
            case: (losses["none"][case] - loss) / (losses["none"][case] - losses["retrained"][case])
            for case, loss in of.items()
            if case in retrained
        }
        for row, of in losses.items()
        if of
    }


def _next(case: Case, cases: Iterable[Case]) -> Case:
    of_way = sorted(other for other in cases if other[0] == case[0])
    return of_way[(of_way.index(case) + 1) % len(of_way)]


def _all(found: Found, row: str, column: str) -> str:
    values: Sequence[float] = [
        of[column] for case, of in found.get(row, {}).items() if case[1] != "-"
    ]
    return said(values) if values else ""
