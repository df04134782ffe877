"""An evaluation in words: the table for a terminal, and JSON."""

import json
from collections.abc import Iterable, Iterator, Sequence

from .._version import __version__
from ..errors import bullets
from .figures import Figure
from .job import Evaluation, Task
from .libraries import versions
from .measures import MEASURES, MOST_PAIRS, Measure

_NONE = "-"


def measured(evaluation: Evaluation) -> list[Measure]:
    """The measures that have a figure, in the order of the table."""
    return [measure for measure in MEASURES if evaluation.figures.get(measure.name)]


def said(figure: Figure | None, measure: Measure) -> str:
    """A figure as "0.352 ±0.021"."""
    if figure is None:
        return _NONE
    mean = f"{figure.mean:.{measure.digits}f}"
    return mean if figure.deviation is None else f"{mean} ±{figure.deviation:.{measure.digits}f}"


def table(evaluation: Evaluation) -> str:
    """Rows and measures; below them what the figures are, what was left out and why, and notes."""
    measures = measured(evaluation)
    lines = [["", "pictures", *(measure.name for measure in measures)]]
    for row, count in evaluation.counts.items():
        found = (said(evaluation.figures[m.name].get(row), m) for m in measures)
        lines.append([row, str(count), *found])
    return "\n".join((*_aligned(lines), "", *bullets(_below(evaluation, measures))))


def _aligned(lines: Sequence[Sequence[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        cells = (cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        yield "  ".join(cells).rstrip()


def _below(evaluation: Evaluation, measures: Sequence[Measure]) -> Iterator[str]:
    for measure in measures:
        of = _pairs(evaluation.figures[measure.name].values())
        yield f"{measure.name}: {measure.says}; {measure.better} is better{of}"
    if evaluation.reference:
        yield f"reference: {evaluation.reference} pictures"
    yield "±: the deviation of single pictures (of LPIPS: of pairs), not of the mean"
    yield from evaluation.notes
    for name, why in evaluation.left_out.items():
        yield f"left out, {name}: {why}"


def _pairs(figures: Iterable[Figure]) -> str:
    """How many pairs there were, of a measure of pairs."""
    count = max((figure.count for figure in figures if figure.unit == "pairs"), default=0)
    drawn = ", drawn" if count == MOST_PAIRS else ""
    return f"; of up to {count} pairs a row{drawn}" if count else ""


def to_json(evaluation: Evaluation, task: Task) -> str:
    """All that is known, the figure of every picture too."""
    found = {
        "prolora": __version__,
        "libraries": versions(),
        "weights": {option: str(path) for option, path in task.weights.items()},
        "pictures": {row: [str(path) for path in paths] for row, paths in task.rows.items()},
        "reference": [str(path) for path in task.reference],
        "measures": {
            measure.name: {
                "better": measure.better,
                "rows": {
                    row: {
                        "mean": figure.mean,
                        "deviation": figure.deviation,
                        "count": figure.count,
                        "unit": figure.unit,
                        "values": dict(figure.values),
                    }
                    for row, figure in evaluation.figures[measure.name].items()
                },
            }
            for measure in measured(evaluation)
        },
        "left_out": dict(evaluation.left_out),
        "notes": list(evaluation.notes),
    }
    return json.dumps(found, indent=2, ensure_ascii=False)
