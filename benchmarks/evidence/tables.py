"""Tables in Markdown, and the paired tests without which nothing is said to win."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import TypeVar

from scipy.stats import ttest_rel, wilcoxon

FEWEST = 3  # cases, below which no test is made and no mean is said

Cell = str | float | int
Case = TypeVar("Case", bound=Hashable)


def markdown(header: Sequence[str], lines: Sequence[Sequence[Cell]]) -> str:
    """A table; floats to three decimals."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(map(_shown, row))} |" for row in rows)


def said(values: Sequence[float], digits: int = 3) -> str:
    """Mean and deviation of a sample, as `0.853 ± 0.037`; "-" of fewer than three values."""
    if len(values) < FEWEST:
        return "-"
    return f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}"


@dataclass(frozen=True)
class Paired:
    """How much more one row has than another over the same cases.

    Attributes:
        more: the mean of the differences.
        wins: in how many cases it has more.
        t, w: p of the paired t test and of Wilcoxon's, two-sided; nan where all differences are 0.
    """

    cases: int
    more: float
    wins: int
    t: float
    w: float

    @property
    def is_decided(self) -> bool:
        """Whether both tests tell the two apart at 0.05."""
        return self.t < 0.05 and self.w < 0.05


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired | None:
    """Compares two rows over the same cases, in the same order; None for fewer than three."""
    if len(ours) < FEWEST:
        return None
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    wins = sum(difference > 0 for difference in differences)
    if not any(differences):
        return Paired(len(ours), 0.0, 0, math.nan, math.nan)
    t, w = ttest_rel(ours, theirs).pvalue, wilcoxon(differences).pvalue
    return Paired(len(ours), mean(differences), wins, float(t), float(w))


PAIRED_HEADER = ("row", "than", "cases", "more by", "better in", "p (t)", "p (Wilcoxon)")


def paired_over(
    row: str, rival: str, ours: Mapping[Case, float], theirs: Mapping[Case, float]
) -> list[Cell] | None:
    """A line under PAIRED_HEADER over the cases that both rows have; None for fewer than three."""
    both = [case for case in ours if case in theirs]
    found = paired([ours[case] for case in both], [theirs[case] for case in both])
    return None if found is None else paired_line(row, rival, found)


def paired_line(row: str, rival: str, found: Paired) -> list[Cell]:
    """A line under PAIRED_HEADER; the difference is bold where both tests tell the two apart."""
    more = f"{found.more:+.3f}"
    more = f"**{more}**" if found.is_decided else more
    return [row, rival, found.cases, more, found.wins, f"{found.t:.1g}", f"{found.w:.1g}"]


def _shown(cell: Cell) -> str:
    return f"{cell:.3f}" if isinstance(cell, float) else str(cell)
