"""Several tasks at once on the cores of the CPU, a thread for each."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ...pairing.module_pairs import ModulePair
from ...progress import Progress
from ...threads import Limits, in_threads
from ..maps import Maps
from ..settings import TransferSettings
from ..tasks import ModuleResult, Task, run

_ROOM = 3 << 30  # bytes: 30 modules of SDXL's usual 1280 x 1280, or two of Flux's largest


def on_cpu(
    tasks: Sequence[Task], maps: Maps | None, settings: TransferSettings, progress: Progress
) -> Iterator[tuple[ModulePair, ModuleResult]]:
    """See run_tasks. Two weights for each thread are in memory at a time."""
    total = sum(len(task.pairs) for task in tasks)
    done = 0

    def work(task: Task) -> list[tuple[ModulePair, ModuleResult]]:
        # A task holds its weights while it runs; the one that is iterated over stays empty.
        return run(replace(task), maps)

    def look(task: Task) -> None:
        progress(done, total, task.pairs[0].adapter.name)

    threads = min(settings.workers or torch.get_num_threads(), len(tasks))
    limits = Limits(threads, settings.memory or _ROOM, lambda task: task.bytes_at_work)
    for task, results in in_threads(tasks, work, look, limits):
        done += len(task.pairs)
        yield from results
    progress(total, total, "")
