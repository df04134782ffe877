"""What was extracted, in a few lines for people."""

from collections import Counter
from collections.abc import Iterator
from statistics import median

from ..errors import bullets, truncated_list
from .extract import Extraction

_LISTED = 5  # how many modules or reasons the summary names before it counts the rest


def summary_of(extraction: Extraction) -> str:
    """The verdict in a line, then the rest as a list."""
    report = extraction.report
    verdict = f"{report.lora}: {report.transferred} of {report.count()} weights in the LoRA"
    return "\n".join((verdict, *bullets(_lines(extraction))))


def _lines(extraction: Extraction) -> Iterator[str]:
    report = extraction.report
    yield f"base {report.target}, tuned {report.source}"
    yield ", ".join(f"{name} {value}" for name, value in report.settings.items())
    yield from _rank_lines(extraction)
    whole = Counter(row.family for row in report.rows if row.status == "copied")
    for kind, count in whole.items():
        yield f"{count} whole: {kind}"
    skipped: dict[str, list[str]] = {}
    for row in report.rows:
        if row.status == "skipped":
            skipped.setdefault(row.reason, []).append(row.name)
    if skipped:
        yield f"{report.count('skipped')} left out:"
    for reason, names in list(skipped.items())[:_LISTED]:
        yield f"  {len(names)}: {reason} ({', '.join(truncated_list(names, 2))})"
    if len(skipped) > _LISTED:
        yield f"  and {len(skipped) - _LISTED} more reasons"
    yield from report.notes
    if extraction.accelerator:
        yield (
            f"An accelerator ({extraction.accelerator}), by the name of the tuned model: with "
            "this LoRA the base wants the few steps, the low CFG and the sampler of that model."
        )


def _rank_lines(extraction: Extraction) -> Iterator[str]:
    rows = [row for row in extraction.report.rows if row.energy_kept is not None]
    if not rows:
        return
    ranks = [row.rank_out for row in rows]
    yield f"rank: median {median(ranks):g}, up to {max(ranks)}"
    shares = [(row.energy_kept or 0.0, row.name) for row in rows]
    least, name = min(shares)
    yield (
        f"energy kept: {extraction.energy_kept:.1%} of all, median "
        f"{median(share for share, _ in shares):.1%}, lowest {least:.1%} ({name})"
    )
    drifts = [(row.measures.drift, row.name) for row in rows if row.measures.drift is not None]
    if drifts:
        most, name = max(drifts)
        yield (
            f"size of the difference: median {median(drift for drift, _ in drifts):.2%} of the "
            f"weight, largest {most:.2%} ({name})"
        )
