"""The table of results: a row for each row of the manifest, from the first moment on."""

import csv
import io
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from ..errors import ProLoRAError, one_line
from ..files.atomic_write import unwritable, write_text
from ..transfer.report import Report
from ..transfer.report_text import median_similarity, warning_of
from .manifest import Row
from .origins import header_of

WAITING, MOVED, DONE, FAILED = "waiting", "moved", "done", "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of a row; the fields are the table's columns, as text.

    Attributes:
        status: "waiting"; "moved", in this run; "done", in an earlier one; or "failed".
        moved, copied, skipped: how many modules were; see ModuleReport.
        similarity: the median of the modules', see Similarity.score.
        seconds: its share of the time of those that were moved with it.
        message: why it failed, or what the user must know.
    """

    status: str
    lora: str
    source: str
    target: str
    out: str
    moved: str = ""
    copied: str = ""
    skipped: str = ""
    similarity: str = ""
    seconds: str = ""
    message: str = ""


COLUMNS = tuple(field.name for field in fields(Outcome))
_COUNTS = ("moved", "copied", "skipped")
_OF_RESULT = (*_COUNTS, "similarity", "seconds", "message")


def waiting(row: Row) -> Outcome:
    return Outcome(WAITING, str(row.lora), str(row.source), str(row.target), str(row.out))


def failed(row: Row, reason: str) -> Outcome:
    return replace(waiting(row), status=FAILED, message=one_line(reason))


def moved(row: Row, report: Report, seconds: float) -> Outcome:
    similarity = median_similarity(report)
    return replace(
        waiting(row),
        status=MOVED,
        **{name: str(report.count(name)) for name in _COUNTS},
        similarity="" if similarity is None else f"{similarity:.4f}",
        seconds=f"{seconds:.1f}",
        message=one_line(" ".join(warning_of(report).splitlines())),
    )


def done(row: Row) -> Outcome:
    """Of a row that an earlier run has moved, as its file tells it."""
    said = header_of(row.out)
    counts = {name: said.get(f"prolora_modules_{name}", "") for name in _COUNTS}
    return replace(waiting(row), status=DONE, **counts)


class Table:
    """The table in a file, which is whole at any moment.

    Raises:
        ProLoRAError: another file has its name.
    """

    def __init__(self, path: Path, rows: Sequence[Row], force: bool = False) -> None:
        self.path = path
        before = _read(path, force)
        self._before = {(old.lora, old.source, old.target, old.out): old for old in before}
        self._outcomes = {outcome.out: self._as_before(outcome) for outcome in map(waiting, rows)}

    @property
    def outcomes(self) -> list[Outcome]:
        return list(self._outcomes.values())

    def add(self, outcomes: Iterable[Outcome]) -> None:
        """Enters what became of some rows, and writes the table.

        Raises:
            ProLoRAError: it cannot be written.
        """
        for outcome in outcomes:
            self._outcomes[outcome.out] = self._as_before(outcome)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(map(asdict, self._outcomes.values()))
        write_text(self.path, text.getvalue())

    def _as_before(self, outcome: Outcome) -> Outcome:
        """With what an earlier run knew of a row that it has moved, if that is not told anew."""
        old = self._before.get((outcome.lora, outcome.source, outcome.target, outcome.out))
        if outcome.status not in (WAITING, DONE) or old is None or not old.moved:
            return outcome
        return replace(outcome, **{name: getattr(old, name) for name in _OF_RESULT})


def _read(path: Path, force: bool) -> list[Outcome]:
    """The table of an earlier run."""
    try:
        path.stat()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unwritable(path, error) from error
    with suppress(OSError, UnicodeDecodeError, csv.Error, TypeError):
        reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"), newline=""))
        if tuple(reader.fieldnames or ()) == COLUMNS:
            return [Outcome(**row) for row in reader]
    if force:
        return []
    raise ProLoRAError(
        f"{path} exists and is no table of results. Name another with --table, or overwrite it "
        "with --force."
    )
