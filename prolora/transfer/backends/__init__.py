"""Third stage: a backend takes the tasks of a job and gives their results.

A backend is chosen by the device. All of them are right to the contract of algebra/leading.py.
"""

from collections.abc import Sequence

from ...progress import Progress
from ..maps import Maps
from ..settings import TransferSettings
from ..tasks import Task
from .backend import Moved, Note
from .batches import in_batches
from .workers import in_workers

# By the type of the device; all others have `in_workers`.
BACKENDS = {"cuda": in_batches}


def run_tasks(
    tasks: Sequence[Task],
    maps: Maps | None,
    settings: TransferSettings,
    progress: Progress,
    note: Note,
) -> Moved:
    """The modules of all tasks with their results, in any order.

    Args:
        maps: see tasks.run.
        note: is told what the report has to say of the run.

    Raises:
        ProLoRAError: see tasks.run.
        Exception: whatever `progress` raises. Nothing of the job runs on then.
    """
    backend = BACKENDS.get(settings.device.type, in_workers)
    return backend(tasks, maps, settings, progress, note)
