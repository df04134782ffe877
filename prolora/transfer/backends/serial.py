"""One task after the other: for a device that has no better way."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ...progress import Progress
from ..maps import Maps
from ..settings import TransferSettings
from ..tasks import Task, run
from .backend import Moved, Note


@torch.no_grad()
def serial(
    tasks: Sequence[Task],
    maps: Maps | None,
    settings: TransferSettings,
    progress: Progress,
    note: Note,
) -> Moved:
    """See run_tasks. Two weights are in memory at a time."""
    total = sum(len(task.pairs) for task in tasks)
    done = 0
    for task in tasks:
        progress(done, total, task.pairs[0].adapter.name)
        # A task holds its weights while it runs; the one that is iterated over stays empty.
        yield from next(run([replace(task)], maps))
        done += len(task.pairs)
    progress(total, total, "")
