"""Rows of one pair of models and one choice of settings, moved together."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..adapters import read_adapter_file
from ..adapters.peft_folder import weights_in
from ..algebra.kept import NOTHING_KEPT, Forgetful
from ..errors import ProLoRAError
from ..files.digests import DigestMemory
from ..files.kept_on_disk import KeptOnDisk
from ..named_files import header, load_pair
from ..progress import Progress, silent
from ..transfer.resolve import resolve
from .manifest import Row
from .many import Failure, Item, Move, move_many, reason_of
from .origins import MARK, Origins
from .table import Outcome, done, failed, moved, waiting

_BYTES = 16 << 30  # of LoRA files in a chunk: as many lie on the disk until they are written


@dataclass(frozen=True)
class Run:
    """How all rows are moved.

    Attributes:
        device, workers, memory: see TransferSettings.
        digests: the file of a DigestMemory.
        cache, cache_bytes: of a KeptOnDisk; without a folder nothing is kept.
        force: whether files that were made from something else may be overwritten.
    """

    device: torch.device
    digests: Path
    workers: int = 0
    memory: int = 0
    cache: Path | None = None
    cache_bytes: int = 0
    force: bool = False

    @property
    def kept(self) -> Forgetful:
        """What earlier chunks found of the same weights."""
        return NOTHING_KEPT if self.cache is None else KeptOnDisk(self.cache, self.cache_bytes)


def chunks_of(rows: Sequence[Row], most: int) -> list[list[Row]]:
    """Rows that can be moved together, in the order of the first of each.

    Args:
        most: rows of a chunk.
    """
    groups: dict[object, list[Row]] = {}
    for row in rows:
        groups.setdefault((row.source, row.target, row.choices), []).append(row)
    return [chunk for group in groups.values() for chunk in _cut(group, most)]


def _cut(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    size = 0
    for row in rows:
        weights = weights_in(row.lora)
        own = weights.stat().st_size if weights.exists() else 0
        if chunk and (len(chunk) >= most or size + own > _BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(row)
        size += own
    if chunk:
        yield chunk


def move_chunk(
    rows: Sequence[Row], run: Run, moving: Progress = silent, writing: Progress = silent
) -> list[Outcome]:
    """Moves the rows of a chunk that are not done; no error of one of them ends it.

    Args:
        moving, writing: see Move.

    Returns:
        An outcome for each row.
    """
    try:
        move = _move_of(rows[0], run, moving, writing)
    except Exception as error:
        return [failed(row, reason_of(error)) for row in rows]
    outcomes: dict[Path, Outcome] = {}
    items: dict[Path, Item] = {}
    origins = Origins(DigestMemory(run.digests), moving)
    with origins.together():
        for row in rows:
            try:
                header(row.lora)  # which says best what is wrong with the file
                if _is_done(row, origins, run):
                    outcomes[row.out] = done(row)
                else:
                    items[row.out] = Item(row.lora, row.out, {MARK: origins.key(row)})
            except Exception as error:
                outcomes[row.out] = failed(row, reason_of(error))
    started = time.monotonic()
    results = {item.out: result for item, result in move_many(list(items.values()), move)}
    seconds = (time.monotonic() - started) / max(len(items), 1)
    for row in rows:
        result = results.get(row.out)
        if isinstance(result, Failure):
            outcomes[row.out] = failed(row, result.reason)
        elif result is not None:
            outcomes[row.out] = moved(row, result.report, seconds)
    return [outcomes[row.out] for row in rows]


def look_at_chunk(rows: Sequence[Row], run: Run, moving: Progress = silent) -> list[Outcome]:
    """What would become of each row, as far as it is known without moving: nothing is written."""
    try:
        move = _move_of(rows[0], run, moving, silent)
    except Exception as error:
        return [failed(row, reason_of(error)) for row in rows]
    outcomes = []
    origins = Origins(DigestMemory(run.digests, is_kept=False), moving)
    with origins.together():
        for row in rows:
            try:
                is_done = _is_done(row, origins, run)
                if not is_done:
                    resolve(read_adapter_file(row.lora), move.source, moving)
                outcomes.append(done(row) if is_done else waiting(row))
            except Exception as error:
                outcomes.append(failed(row, reason_of(error)))
    return outcomes


def _move_of(row: Row, run: Run, moving: Progress, writing: Progress) -> Move:
    settings = replace(
        row.choices.settings(), device=run.device, workers=run.workers, memory=run.memory
    )
    pair = load_pair(row.source, row.target)
    return Move(*pair, settings, row.choices.form, moving, writing, run.kept)


def _is_done(row: Row, origins: Origins, run: Run) -> bool:
    if not row.out.exists():
        return False
    if origins.is_done(row):
        return True
    if run.force:
        return False
    raise ProLoRAError(
        f"{row.out} exists, and was not made from these files and settings. Choose another name, "
        "or overwrite it with --force."
    )
