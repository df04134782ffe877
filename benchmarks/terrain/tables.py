"""The terrain section of docs/evidence.md, from what was measured."""

from collections.abc import Mapping
from statistics import mean
from textwrap import fill

from benchmarks.evidence.page import write_section
from benchmarks.evidence.tables import PAIRED_HEADER, markdown, paired_over, said

from . import loras, maps, rows
from .models import PACKAGE, VERSIONS
from .part import facts, results

FLOOR = "retrained again"
SHOWN = {FLOOR: "*retrained, another seed*"}
ROWS = tuple(rows.WAYS)
COMPARED = [
    *((row, "copy") for row in ("subspace", "prolora", "full", "casa", "orthogonal", "theseus")),
    ("calibrated", "copy"),
    ("refined", "copy"),
    ("refined", "calibrated"),
    ("refined", FLOOR),
]
LEGEND = """\
Mean and deviation over the cases (seeds, changes, directions). The columns of the directions and
*both* are shares of the retrained LoRA's gain in loss. *Error*, *cosine* and *retention* compare
what the moved LoRA does to the target's answers with what it did to the source's on the same noised
maps: 0, 1 and 1 for the same; of another seed's LoRA, with what the retrained one does. *Own kept*
is how much of what tells the target from the source is there under the change: 0 where the target
draws what the source would, "-" where the change is not there; the retrained LoRA's is what can be
asked, for neither LoRA makes the change perfectly. *Seconds* are of CPU time, without the one
recording that `theseus`, `calibrated` and `refined` share.

![Maps of both versions](terrain.png)

A line is one noise and one change, drawn by the source, the source with its LoRA, the target, and
the target with that LoRA copied, calibrated, and with its own."""

Case = tuple[str, str, str, str]
Measured = Mapping[tuple[Case, str], Mapping[str, str]]


def report() -> None:
    """Writes the section, if anything was measured."""
    found = {(_case(line), line["row"]): line for line in results().rows()}
    if found:
        known = {line["what"]: line["value"] for line in facts().rows()}
        write_section("terrain", section(found, known))


def section(found: Measured, known: Mapping[str, str]) -> str:
    """Words and tables; a row has the cases in which it was measured."""
    shares = {row: _shares(found, row) for row in ROWS}
    directions = list(dict.fromkeys(case[:2] for case, _ in found))
    named = [f"{source} to {target}" for source, target in directions]
    header = ["row", "cases", *named, "both", "error", "cosine", "retention", "own kept", "seconds"]
    lines = [
        [
            SHOWN.get(row, row),
            len(shares[row]),
            *(said([s for case, s in shares[row].items() if case[:2] == d]) for d in directions),
            said(list(shares[row].values())),
            *_effects(found, row),
            _seconds(found, row, known),
        ]
        for row in ROWS
    ]
    tests = [
        paired_over(row, SHOWN.get(rival, rival), shares[row], shares[rival])
        for row, rival in COMPARED
    ]
    return "\n\n".join(
        [
            _about(known),
            markdown(header, lines),
            _wrapped(LEGEND),
            markdown(PAIRED_HEADER, [line for line in tests if line]),
            _run(known, found),
        ]
    )


def _shares(found: Measured, row: str) -> dict[Case, float]:
    """Of the retrained LoRA's gain in loss over no LoRA, in each case that has all three."""
    shares = {}
    for case in dict.fromkeys(case for case, _ in found):
        if all((case, name) in found for name in ("none", "retrained", row)):
            none, retrained, own = (
                float(found[case, name]["loss"]) for name in ("none", "retrained", row)
            )
            shares[case] = (none - own) / (none - retrained)
    return shares


def _case(line: Mapping[str, str]) -> Case:
    return line["source"], line["target"], line["change"], line["seed"]


def _effects(found: Measured, row: str) -> list[str]:
    of_row = [line for (_, name), line in found.items() if name == row]

    def of(column: str) -> str:
        return said([float(line[column]) for line in of_row if line[column]], 2)

    does_it = mean(float(line["retention"] or 0) for line in of_row) > 0.5 if of_row else False
    own = of("own") if does_it else "-"
    return [*(of(column) for column in ("error", "cosine", "retention")), own]


def _seconds(found: Measured, row: str, known: Mapping[str, str]) -> str:
    """Of CPU time, a LoRA; of training where one is trained."""
    if row in ("retrained", FLOOR):
        return f"{mean(_times(known, 'training')):.0f}"
    of_row = [float(line["seconds"]) for (_, name), line in found.items() if name == row]
    return f"{mean(of_row):.1f}" if of_row else "-"


def _times(known: Mapping[str, str], what: str) -> list[float]:
    return [float(value) for name, value in known.items() if name.startswith(what)]


def _about(known: Mapping[str, str]) -> str:
    figures = {what: float(value) for what, value in known.items()}
    first, second = VERSIONS
    off = max(figures[f"off {version}"] for version in VERSIONS)
    return _wrapped(f"""\
`{PACKAGE}` {first} and {second} on PyPI (MIT) are two diffusion models of one architecture, a U-Net
of {figures["parameters"] / 1e6:.1f} M parameters that draws a map of heights in one step from noise
(sigma 80), for a difficulty from 1 to 100. Their weights differ by {figures["median drift"]:.1%} in
the median and {figures["largest drift"]:.0%} at most, the maps drawn from the same noise by
{figures["apart at 128"]:.0%} of their deviation, and by {figures[f"apart at {maps.SIDE}"]:.0%} in
the size used here, {maps.SIDE} x {maps.SIDE} (the package's own is 128 x 128, at four times the
cost). Our torch module gives what the packages' graphs give, to {off:.0e}.

Two changes of a version's own maps are learned: *flooded* (nothing lies below {maps.SEA:g} of
[-1, 1]) and *inverted* (mountains are valleys). A LoRA of rank {loras.RANK} on attention and the
3 x 3 convolutions is trained on each version with each of {len(loras.SEEDS)} seeds, {loras.STEPS}
steps of {loras.BATCH} maps, and moved both ways. It is judged on {maps.HELD_OUT} noised maps (sigma
{maps.SIGMA_LOW:g} to 80) of difficulties that no LoRA was trained on. What listens does so on
{rows.SAMPLES} noised maps; `refined` is {rows.REFINING.steps} steps of {rows.REFINING.batch}.
The noise floor is another seed's LoRA of the target.""")


def _run(known: Mapping[str, str], found: Measured) -> str:
    training, recording = (_times(known, what) for what in ("training", "recording"))
    measuring = sum(float(line["seconds"]) for line in found.values())
    count = len(VERSIONS) * len(maps.CHANGES) * len(loras.SEEDS)
    return _wrapped(f"""\
The cases are not independent of each other (seeds of two changes, both ways), so that p tells less
than it says. Seeds {", ".join(map(str, loras.SEEDS))}; {count} LoRAs, trained in
{mean(training):.0f} s of CPU time each and recorded in {mean(recording):.0f} s, moved in
{measuring / 60:.0f} minutes in all.""")


def _wrapped(text: str) -> str:
    return "\n\n".join(fill(paragraph, 100) for paragraph in text.split("\n\n"))
