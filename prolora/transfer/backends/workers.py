"""Several tasks at once on the cores of the CPU, a thread for each; elsewhere one by one."""

from collections.abc import Sequence
from dataclasses import replace

from ...progress import Progress
from ...threads import Limits, in_threads
from ..maps import Maps
from ..settings import TransferSettings
from ..tasks import Results, Task, run
from .backend import Moved, Note


def in_workers(
    tasks: Sequence[Task],
    maps: Maps | None,
    settings: TransferSettings,
    progress: Progress,
    note: Note,
) -> Moved:
    """See run_tasks. Two weights for each thread are in memory at a time; see Limits.on."""
    total = sum(len(task.pairs) for task in tasks)
    done = 0

    def work(task: Task) -> Results:
        # A task holds its weights while it runs; the one that is iterated over stays empty.
        return next(run([replace(task)], maps))

    def look(task: Task) -> None:
        progress(done, total, task.pairs[0].adapter.name)

    chosen = settings.workers, settings.memory
    limits = Limits.on(settings.device, lambda task: task.bytes_at_work, *chosen)
    for task, results in in_threads(tasks, work, look, limits):
        done += len(task.pairs)
        yield from results
    progress(total, total, "")
