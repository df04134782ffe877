"""One task after the other: for a device that has no better way."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ...pairing.module_pairs import ModulePair
from ...progress import Progress
from ..maps import Maps
from ..settings import TransferSettings
from ..tasks import ModuleResult, Task, run


@torch.no_grad()
def serial(
    tasks: Sequence[Task], maps: Maps | None, settings: TransferSettings, progress: Progress
) -> Iterator[tuple[ModulePair, ModuleResult]]:
    """See run_tasks. Two weights are in memory at a time."""
    total = sum(len(task.pairs) for task in tasks)
    done = 0
    for task in tasks:
        progress(done, total, task.pairs[0].adapter.name)
        # A task holds its weights while it runs; the one that is iterated over stays empty.
        yield from run(replace(task), maps)
        done += len(task.pairs)
    progress(total, total, "")
