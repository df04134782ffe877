"""What happened to every module, in words for people."""

import math
from collections import Counter
from collections.abc import Iterator
from statistics import median

from ..algebra.subspace import Similarity
from ..errors import bullets, one_line, truncated_list
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
    """The warning if there is one, the verdict in a line, then the rest as a list.

    It reads well as plain text and as Markdown, which some pages take it for.
    """
    warning = warning_of(report)
    head = f"{warning}\n\n{verdict_of(report)}" if warning else verdict_of(report)
    return "\n".join((head, *bullets(_lines(report))))


def verdict_of(report: Report) -> str:
    """One line: how many modules came over, and what of them."""
    counts = {status: report.count(status) for status in ("moved", "copied", "shared", "skipped")}
    parts = ", ".join(f"{count} {status}" for status, count in counts.items() if count)
    verdict = f"{report.transferred} of {report.count()} modules transferred: {parts}"
    kept, similarity = list(_energies(report)), median_similarity(report)
    if not kept:
        return verdict
    if is_as_it_is(report) and similarity is not None:
        return f"{verdict}; similarity: {similarity:.3f} (median)"
    return f"{verdict}; energy kept: {median(kept):.1%} (median)"


def is_as_it_is(report: Report) -> bool:
    """Whether what moved is as it was, so that its similarity says more than the energy kept."""
    mode = report.settings.get("mode")  # an extraction has none
    return mode is not None and mode_named(mode).as_it_is


def table_of(report: Report) -> str:
    """Every module as aligned columns, a line each."""
    lines = [("module", "status", "similarity", "kept", "in the target", "reason")]
    for row, label in _labelled(report):
        phi, kept = row.measures.similarity, row.energy_kept
        similarity = "-" if phi is None else f"{phi.score:.3f}"
        share = "-" if kept is None else f"{kept:.1%}"
        lines.append((label, row.status, similarity, share, row.target_key or "-", row.reason))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ([c.ljust(width) for c, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def median_similarity(report: Report) -> float | None:
    """Of the modules whose similarity was measured; None where there is none."""
    scores = [phi.score for phi, _ in _measured(report)]
    return median(scores) if scores else None


def _measured(report: Report) -> Iterator[tuple[Similarity, str]]:
    for row, label in _labelled(report):
        if row.measures.similarity is not None and not row.shared_from:
            yield row.measures.similarity, label


def _labelled(report: Report) -> Iterator[tuple[ModuleReport, str]]:
    """The rows with their names, and with the part where a module has more than one row."""
    rows = Counter(row.name for row in report.rows)
    for row in report.rows:
        _, bracket, part = row.target_key.partition("[")
        yield row, one_line(row.name) + (bracket + part if rows[row.name] > 1 else "")


def _lines(report: Report) -> Iterator[str]:
    yield f"{report.lora}, from {report.source} to {report.target}"
    yield ", ".join(f"{name} {value}" for name, value in report.settings.items())
    copied = Counter(row.reason for row in report.rows if row.status == "copied")
    for reason, count in copied.items():
        yield f"{count} copied: {reason}"
    noted = Counter(row.reason for row in report.rows if row.status == "moved" and row.reason)
    for reason, count in noted.items():
        yield f"{count} moved, but {reason}"
    yield from _share_lines(report)
    yield from _similarity_lines(report)
    yield from _energy_lines(report)
    yield from _readout_lines(report)
    skipped: dict[str, list[str]] = {}
    for row, label in _labelled(report):
        if row.status == "skipped":
            skipped.setdefault(row.reason, []).append(label)
    if skipped:
        yield f"{report.count('skipped')} skipped:"
    reasons = [f"{', '.join(truncated_list(names, 2))}: {why}" for why, names in skipped.items()]
    yield from (f"  {line}" for line in truncated_list(reasons, _LISTED))
    yield from report.notes
    if report.unknown_keys:
        yield f"{len(report.unknown_keys)} keys of the file are of no known kind:"
        keys = list(map(one_line, report.unknown_keys))
        yield from (f"  {key}" for key in truncated_list(keys, _LISTED))


def _share_lines(report: Report) -> Iterator[str]:
    shared = [row for row in report.rows if row.status == "shared"]
    if shared:
        blocks = ", ".join(truncated_list(list(dict.fromkeys(r.shared_from for r in shared)), 4))
        yield (
            f"{report.count('shared')} shared with blocks that nothing serves, "
            f"{report.settings['unserved']} of what goes to their neighbours (from {blocks})"
        )


def _similarity_lines(report: Report) -> Iterator[str]:
    scored = list(_measured(report))
    if not scored:
        return
    worst, name = min(scored, key=lambda pair: pair[0].score)
    middle = median(phi.score for phi, _ in scored)
    chances = [max(phi.left_chance, phi.right_chance) for phi, _ in scored]
    known = [chance for chance in chances if not math.isnan(chance)]
    chance = f"chance alone gives {median(known):.2f}" if known else "of the spectra alone"
    yield f"similarity: median {middle:.3f}, lowest {worst.score:.3f} ({name}); {chance}"
    served = [row for row in report.rows if row.measures.similarity and not row.shared_from]
    below = sum(row.status == "skipped" for row in served)
    if report.transferred and 2 * below > len(scored):
        yield (
            "Most modules are below the threshold. If blocks were removed here and inserted "
            "there, their numbers no longer tell: ProLoRA Similarity shows it, and pairs by "
            "hand put it right."
        )


def _readout_lines(report: Report) -> Iterator[str]:
    found = [row.measures.readouts_off for row in report.rows]
    off = [both for both in found if both is not None]
    if off:
        copied, after = (median(side) for side in zip(*off, strict=True))
        yield (
            f"calibrated by {len(off)} read-outs: off by {copied:.1%} as copied, {after:.1%} now "
            "(medians)"
        )


def _energies(report: Report) -> Iterator[float]:
    moved = (row for row in report.rows if row.status == "moved")
    yield from (row.energy_kept for row in moved if row.energy_kept is not None)


def _energy_lines(report: Report) -> Iterator[str]:
    ranks = [row.rank_out for row in report.rows if row.rank_out]
    if any(row.rank_out and row.rank_in == 0 for row in report.rows):
        yield f"rank of the result: median {median(ranks):g}, up to {max(ranks)}"
    kept = list(_energies(report))
    if kept and not is_as_it_is(report):
        yield f"energy kept: median {median(kept):.1%}, lowest {min(kept):.1%}"
    dropped = [row.energy_dropped for row in report.rows if row.energy_dropped > 0]
    lost = [
        label
        for row, label in _labelled(report)
        if row.energy_kept is not None and row.energy_kept < 1 - _LOST
    ]
    if lost:
        names = ", ".join(truncated_list(lost, _LISTED))
        yield f"{len(lost)} lose more than {_LOST:.0%} of their energy: {names}"
    if dropped:
        yield f"truncation to the rank dropped up to {max(dropped):.2%} of a module's energy"
