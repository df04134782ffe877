"""Several LoRAs of one source to one target: every pair of weights is decomposed once for all."""

import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ..adapters import read_adapter_file
from ..algebra.kept import NOTHING_KEPT, Forgetful
from ..errors import ProLoRAError
from ..files.spool import Spool
from ..memory import is_out_of_memory, no_memory
from ..models.model import Model
from ..progress import Progress, silent
from ..transfer.assemble import TransferResult
from ..transfer.job import Aligned, Job, prepare_job, transfer_jobs
from ..transfer.report import Report
from ..transfer.report_text import warning_of
from ..transfer.resolve import resolve
from ..transfer.saving import FileForm, save_result
from ..transfer.settings import TransferSettings


@dataclass(frozen=True)
class Move:
    """From where to where LoRAs are moved, and how.

    Attributes:
        moving: told of the modules of all of them.
        writing: told of the files.
        kept: see transfer_resolved.
    """

    source: Model
    target: Model
    settings: TransferSettings
    form: FileForm
    moving: Progress = silent
    writing: Progress = silent
    kept: Forgetful = NOTHING_KEPT


@dataclass(frozen=True)
class Item:
    """A LoRA, and the file to write.

    Attributes:
        marks: for its header.
    """

    lora: Path
    out: Path
    marks: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Written:
    """What came of a LoRA that was moved.

    Attributes:
        notes: what is to be said of the file.
    """

    report: Report
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Failure:
    """Why nothing was written for a LoRA."""

    reason: str


def move_many(items: list[Item], move: Move) -> Iterator[tuple[Item, Written | Failure]]:
    """Moves LoRAs, then writes them one after the other, and gives each when it is written.

    One that cannot be moved costs the others nothing but time. However many there are, they take
    no more memory than a few do: until they are written, they lie on the disk of the first.

    Raises:
        KeyboardInterrupt: or whatever else that is no Exception, of `moving` and `writing`. What is
            written stays.
    """
    if not items:
        return
    jobs: list[tuple[Item, Job]] = []
    aligned: Aligned = {}
    read = Spool(items[0].out.parent)
    for number, item in enumerate(items):
        move.moving(0, 1, f"{item.lora.name} ({number + 1} of {len(items)})")
        try:
            jobs.append((item, _prepared(item, move, aligned, read)))
        except Exception as error:
            yield item, Failure(reason_of(error))
        read.give_pages_back()
    yield from _moved(jobs, move, read)


def _prepared(item: Item, move: Move, aligned: Aligned, read: Spool) -> Job:
    found = resolve(read_adapter_file(item.lora, read.hold), move.source, move.moving)
    given = move.target, move.settings, move.moving, move.kept, aligned
    return prepare_job(found, *given)


def _moved(
    jobs: list[tuple[Item, Job]], move: Move, read: Spool
) -> Iterator[tuple[Item, Written | Failure]]:
    """After an error in halves, until the one is found that it is of."""
    if not jobs:
        return
    items = [item for item, _ in jobs]
    spool = Spool(items[0].out.parent, beside=read)
    try:
        results = transfer_jobs(
            [job for _, job in jobs], move.moving, kept=move.kept, hold=spool.hold
        )
    except Exception as error:
        if len(jobs) == 1:
            yield items[0], Failure(reason_of(error))
            return
        middle = len(jobs) // 2
        for half in (jobs[:middle], jobs[middle:]):
            yield from _moved(half, move, read)
        return
    for number, item in enumerate(items):
        move.writing(number, len(items), item.out.name)
        try:
            yield item, _written(item, results[number], move)
        except Exception as error:
            yield item, Failure(reason_of(error))
        spool.give_pages_back()


def _written(item: Item, result: TransferResult, move: Move) -> Written | Failure:
    if not result.contents:
        return Failure(warning_of(result.report))
    notes = save_result(result, move.target, item.out, move.form, item.marks)
    return Written(result.report, notes)


def reason_of(error: Exception) -> str:
    """The sentence of an error; of one that nobody foresaw, where it came from as well."""
    if is_out_of_memory(error):
        return no_memory(error)
    if isinstance(error, (ProLoRAError, OSError)):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}, line {place.lineno})"
