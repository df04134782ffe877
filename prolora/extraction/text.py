"""What was extracted, in a few lines for people."""

from collections import Counter
from collections.abc import Iterator
from statistics import median

from ..errors import bullets, truncated_list
from .extract import Extraction

_LISTED = 5  # how many modules or reasons the summary names before it counts the rest


def summary_of(extraction: Extraction) -> str:
    """The verdict in a line, then the rest as a list."""
    return "\n".join((_verdict(extraction), *bullets(_lines(extraction))))


def _verdict(extraction: Extraction) -> str:
    report = extraction.report
    kept = f"; it keeps {extraction.energy_kept:.1%} of their difference"
    return (
        f"{report.transferred} of {report.count()} weights in the LoRA"
        f"{kept if extraction.adapters else ''}"
    )


def _lines(extraction: Extraction) -> Iterator[str]:
    report = extraction.report
    yield f"{report.source} minus {report.target}, which it is for"
    yield ", ".join(f"{name} {value}" for name, value in report.settings.items())
    yield from _rank_lines(extraction)
    whole = Counter(row.family for row in report.rows if row.status == "copied")
    yield from (f"{count} whole: {kind}" for kind, count in whole.items())
    skipped: dict[str, list[str]] = {}
    for row in report.rows:
        if row.status == "skipped":
            skipped.setdefault(row.reason, []).append(row.name)
    if skipped:
        yield f"{report.count('skipped')} left out:"
    reasons = [f"{len(n)}: {why} ({', '.join(truncated_list(n, 2))})" for why, n in skipped.items()]
    yield from (f"  {line}" for line in truncated_list(reasons, _LISTED))
    yield from report.notes
    if extraction.accelerator:
        yield (
            f"an accelerator ({extraction.accelerator}), by the name of the tuned model: with this "
            "LoRA the base wants the few steps, the low CFG and the sampler of that model"
        )


def _rank_lines(extraction: Extraction) -> Iterator[str]:
    rows = [row for row in extraction.report.rows if row.energy_kept is not None]
    if not rows:
        return
    ranks = [row.rank_out for row in rows]
    yield f"rank: median {median(ranks):g}, up to {max(ranks)}"
    shares = [(row.energy_kept or 0.0, row.name) for row in rows]
    least, name = min(shares)
    middle = median(share for share, _ in shares)
    yield f"energy kept by a module: median {middle:.1%}, lowest {least:.1%} ({name})"
    drifts = [(row.measures.drift, row.name) for row in rows if row.measures.drift is not None]
    if drifts:
        most, name = max(drifts)
        middle = median(drift for drift, _ in drifts)
        yield f"difference: median {middle:.2%} of a weight's size, largest {most:.2%} ({name})"
