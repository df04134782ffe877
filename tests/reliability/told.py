"""What the campaign tried and what came of it: a line each, which docs/reliability.md shows."""

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from benchmarks.evidence.page import write_section
from benchmarks.evidence.tables import markdown

FILE = Path(__file__).with_name("told.csv")
# The tables of docs/reliability.md, each with a place `<!-- NAME -->` there.
SECTIONS = ("fuzzing", "faults", "memory", "many", "hostile", "hosts", "static")


@dataclass(frozen=True)
class Told:
    """One line.

    Attributes:
        section: one of SECTIONS.
        tried: what was done, in a few words.
        host: the version of ComfyUI that it was done in, or "-".
        times: how often.
        found: what came of it, with its figures.
        seconds: how long it took, of wall time.
        date: of the day.
        command: what does it again.
    """

    section: str
    tried: str
    host: str
    times: int
    found: str
    seconds: float
    date: str
    command: str

    @property
    def key(self) -> tuple[str, str, str]:
        return self.section, self.tried, self.host


def read(file: Path = FILE) -> list[Told]:
    if not file.is_file():
        return []
    with file.open(encoding="utf-8", newline="") as lines:
        return [
            Told(**{**line, "times": int(line["times"]), "seconds": float(line["seconds"])})
            for line in csv.DictReader(lines)
        ]


def keep(told: Told, file: Path = FILE) -> None:
    """Writes a line in the place of an earlier one of the same section, words and host.

    Raises:
        ValueError: there is no such section.
    """
    if told.section not in SECTIONS:
        raise ValueError(f"no section is called {told.section}: {', '.join(SECTIONS)}")
    lines = {line.key: line for line in read(file)} | {told.key: told}
    header = [field.name for field in fields(Told)]
    with file.open("w", encoding="utf-8", newline="") as text:
        table = csv.DictWriter(text, header, lineterminator="\n")
        table.writeheader()
        table.writerows(asdict(lines[key]) for key in sorted(lines))


def table(lines: Sequence[Told]) -> str:
    """Of one section."""
    header = ["what was done", "ComfyUI", "times", "what came of it", "took", "date", "command"]
    rows = [
        [
            line.tried,
            line.host,
            f"{line.times:,}",
            line.found,
            f"{line.seconds:,.0f} s",
            line.date,
            f"`{line.command}`",
        ]
        for line in lines
    ]
    return markdown(header, rows)


def report() -> None:
    """The tables of docs/reliability.md."""
    lines = read()
    for section in SECTIONS:
        of = [line for line in lines if line.section == section]
        write_section(section, table(of) if of else "Nothing yet.")


if __name__ == "__main__":
    report()
