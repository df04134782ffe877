"""A comparison of two models as text: a summary, a table for people, a table for programs."""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import takewhile
from statistics import median

from ..errors import bullets, truncated_list
from ..pairing.summary import stage_lines
from .figures import Comparison, Row, block_label

_LISTED = 5
_OUTSIDE = "outside of blocks"


def summary(comparison: Comparison) -> str:
    """The comparison in a few lines for people."""
    return "\n".join((verdict(comparison), *bullets(_summary_lines(comparison))))


def verdict(comparison: Comparison) -> str:
    """One line: the median similarity, and how many weights a transfer leaves out."""
    scores = [phi.score for _, phi in comparison.measured]
    return (
        f"median similarity {median(scores):.3f}, {_corrected_median(comparison)}; "
        f"{comparison.below} of {len(scores)} weights below a transfer's threshold "
        f"{comparison.threshold:g}"
    )


def table(comparison: Comparison) -> str:
    """The comparison as aligned columns, a line for each weight."""
    head = ("block", "module", "left", "right", "corrected", "")
    lines = [head, *map(_cells, comparison.rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join(_aligned(line, widths) for line in lines)


def to_csv(comparison: Comparison) -> str:
    """The comparison as CSV with all figures, a line for each weight; a missing figure is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(_fields(comparison.rows[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(_fields(row) for row in comparison.rows)
    return text.getvalue()


def _summary_lines(comparison: Comparison) -> Iterator[str]:
    measured = comparison.measured
    ours, theirs = comparison.architectures
    worst, phi = min(measured, key=lambda pair: pair[1].score)
    yield (
        f"{comparison.target} ({theirs}) compared with {comparison.source} ({ours}): "
        f"{len(measured)} weights, subspaces of {100 * comparison.energy:.3g}% of the energy"
    )
    yield f"lowest {phi.score:.3f}: {worst.target}"
    same = sum(row.reason == "identical" for row, _ in measured)
    if same:
        yield f"{same} are identical"
    yield "corrected for chance:"
    yield from _lines_by_stage(comparison)
    yield from stage_lines(comparison.blocks)
    missing: dict[str, list[str]] = defaultdict(list)
    for row in comparison.rows:
        if row.similarity is None:
            missing[row.reason].append(row.target or f"(source) {row.source}")
    reasons = [
        f"{', '.join(truncated_list(names, 2))}: {reason}" for reason, names in missing.items()
    ]
    if reasons:
        yield f"{sum(map(len, missing.values()))} could not be compared:"
        yield from (f"  {line}" for line in truncated_list(reasons, _LISTED))
    yield from comparison.notes


def _lines_by_stage(comparison: Comparison) -> Iterator[str]:
    """The corrected figures of each outermost list of blocks."""
    stages: dict[str, list[tuple[float, Row]]] = defaultdict(list)
    for row, _ in comparison.measured:
        if row.corrected is not None:
            stages[_stage(row.block) or _OUTSIDE].append((row.corrected, row))
    for stage, figures in stages.items():
        lowest, row = min(figures, key=lambda figure: figure[0])
        middle = median(figure for figure, _ in figures)
        where = row.target.removeprefix(f"{stage}.")
        yield (
            f"  {stage}: median {middle:.3f}, lowest {lowest:.3f} ({where}), {len(figures)} weights"
        )


def _stage(block: str) -> str:
    return ".".join(takewhile(lambda part: not part.isdecimal(), block.split(".")))


def _corrected_median(comparison: Comparison) -> str:
    figures = [row.corrected for row in comparison.rows if row.corrected is not None]
    return f"{median(figures):.3f} corrected for chance" if figures else "as much as chance gives"


def _cells(row: Row) -> tuple[str, ...]:
    if row.similarity is None:
        figures = ("-", "-", "-")
    else:
        figures = (
            f"{row.similarity.left:.3f}",
            f"{row.similarity.right:.3f}",
            "-" if row.corrected is None else f"{row.corrected:.3f}",
        )
    block = block_label(row) or "-"
    if row.target and not row.block and row.source not in ("", row.target):
        block = f"<- {row.source}"
    return (block if row.target else f"(source) {block}", row.module, *figures, row.reason)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    names = [cell.ljust(width) for cell, width in zip(line[:2], widths[:2], strict=True)]
    figures = [cell.rjust(width) for cell, width in zip(line[2:5], widths[2:], strict=True)]
    return "  ".join([*names, *figures, line[5]]).rstrip()


def _fields(row: Row) -> dict[str, object]:
    phi = row.similarity
    known = row.target_rank is not None or None  # identical weights are not decomposed
    return {
        "target": row.target,
        "source": row.source,
        "block": row.block,
        "source_block": row.source_block,
        "module": row.module,
        "target_shape": "x".join(map(str, row.target_shape)),
        "source_shape": "x".join(map(str, row.source_shape)),
        "k_t": row.target_rank,
        "k_s": row.source_rank,
        "phi_left": phi and phi.left,
        "phi_right": phi and phi.right,
        "chance_left": phi and known and phi.left_chance,
        "chance_right": phi and known and phi.right_chance,
        "phi_corrected": row.corrected,
        "reason": row.reason,
    }
