"""What happened to every module, in a few lines for people."""

import math
from collections import Counter
from collections.abc import Iterator
from statistics import median

from ..algebra.subspace import Similarity
from ..errors import truncated_list
from .modes import CROSSING, mode_named
from .report import ModuleReport, Report

_LISTED = 5  # how many modules of a kind the summary names before it counts the rest
_LOST = 0.5  # a module that loses more of its energy than this share is named


def warning_of(report: Report) -> str:
    """What the user must hear, a line each, or ""."""
    return "\n".join(filter(None, (*report.warnings, _empty(report))))


def _empty(report: Report) -> str:
    """Why the result is empty, where it is, and what to do."""
    if report.transferred:
        return ""
    best = max((phi.score for phi, _ in _measured(report)), default=None)
    found = "" if best is None else f" The best similarity found was {best:.3f}."
    return (
        "NOTHING WAS MOVED: no module reached the threshold "
        f"{report.settings['threshold']}, so the result is empty and changes nothing.{found} "
        f"{_advice(report)}"
    )


def _advice(report: Report) -> str:
    if mode_named(report.settings["mode"]).crosses_widths:
        return (
            "Between widths the similarity says little: a threshold of 0 moves all that has a "
            "place."
        )
    if report.widths:
        return (
            f"The two models have other widths ({report.widths}). Mode {CROSSING}, which is "
            "experimental, goes from one width to another."
        )
    return (
        "Is the source the checkpoint that the LoRA was trained on? Lower the threshold to "
        "move it all the same."
    )


def summary_of(report: Report) -> str:
    """A few lines for people."""
    return "\n".join(_summary_lines(report))


def _measured(report: Report) -> Iterator[tuple[Similarity, str]]:
    for row, label in _labelled(report):
        if row.measures.similarity is not None:
            yield row.measures.similarity, label


def _labelled(report: Report) -> Iterator[tuple[ModuleReport, str]]:
    """The rows with their names, and with the part where a module has more than one row."""
    rows = Counter(row.name for row in report.rows)
    for row in report.rows:
        _, bracket, part = row.target_key.partition("[")
        yield row, row.name + (bracket + part if rows[row.name] > 1 else "")


def _summary_lines(report: Report) -> Iterator[str]:
    yield f"{report.lora}: {report.transferred} of {report.count()} modules transferred"
    yield f"  from {report.source} to {report.target}"
    yield "  " + ", ".join(f"{name} {value}" for name, value in report.settings.items())
    if warning_of(report):
        yield from (f"  {line}" for line in warning_of(report).splitlines())
    copied = Counter(row.reason for row in report.rows if row.status == "copied")
    for reason, count in copied.items():
        yield f"  {count} copied: {reason}"
    noted = Counter(row.reason for row in report.rows if row.status == "moved" and row.reason)
    for reason, count in noted.items():
        yield f"  {count} moved, but {reason}"
    yield from _similarity_lines(report)
    yield from _energy_lines(report)
    yield from _readout_lines(report)
    skipped: dict[str, list[str]] = {}
    for row, label in _labelled(report):
        if row.status == "skipped":
            skipped.setdefault(row.reason, []).append(label)
    if skipped:
        yield f"  {report.count('skipped')} skipped:"
    reasons = [f"{', '.join(truncated_list(names, 2))}: {why}" for why, names in skipped.items()]
    yield from (f"    {line}" for line in truncated_list(reasons, _LISTED))
    yield from (f"  {note}" for note in report.notes)
    if report.unknown_keys:
        yield f"  {len(report.unknown_keys)} keys of the file are of no known kind:"
        yield from (f"    {key}" for key in truncated_list(report.unknown_keys, _LISTED))


def _similarity_lines(report: Report) -> Iterator[str]:
    scored = list(_measured(report))
    if not scored:
        return
    worst, name = min(scored, key=lambda pair: pair[0].score)
    middle = median(phi.score for phi, _ in scored)
    chances = [max(phi.left_chance, phi.right_chance) for phi, _ in scored]
    known = [chance for chance in chances if not math.isnan(chance)]
    chance = f"chance alone gives {median(known):.2f}" if known else "of the spectra alone"
    yield f"  similarity: median {middle:.3f}, lowest {worst.score:.3f} ({name}); {chance}"
    below = sum(row.status == "skipped" for row in report.rows if row.measures.similarity)
    if report.transferred and 2 * below > len(scored):
        yield (
            "  Most modules are below the threshold. If blocks were removed here and inserted "
            "there, their numbers no longer tell: ProLoRA Similarity shows it, and pairs by "
            "hand put it right."
        )


def _readout_lines(report: Report) -> Iterator[str]:
    found = [row.measures.readouts_off for row in report.rows]
    off = [both for both in found if both is not None]
    if off:
        copied, after = (median(side) for side in zip(*off, strict=True))
        yield (
            f"  calibrated by {len(off)} read-outs: off by {copied:.1%} as copied, {after:.1%} now "
            "(medians)"
        )


def _energy_lines(report: Report) -> Iterator[str]:
    ranks = [row.rank_out for row in report.rows if row.rank_out]
    if any(row.rank_out and row.rank_in == 0 for row in report.rows):
        yield f"  rank of the result: median {median(ranks):g}, up to {max(ranks)}"
    moved = [row for row in report.rows if row.status == "moved"]
    kept = [row.energy_kept for row in moved if row.energy_kept is not None]
    if kept:
        yield f"  energy kept: median {median(kept):.1%}, lowest {min(kept):.1%}"
    dropped = [row.energy_dropped for row in report.rows if row.energy_dropped > 0]
    lost = [
        label
        for row, label in _labelled(report)
        if row.energy_kept is not None and row.energy_kept < 1 - _LOST
    ]
    if lost:
        names = ", ".join(truncated_list(lost, _LISTED))
        yield f"  {len(lost)} lose more than {_LOST:.0%} of their energy: {names}"
    if dropped:
        yield f"  truncation to the rank dropped up to {max(dropped):.2%} of a module's energy"
