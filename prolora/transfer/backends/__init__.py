"""Third stage: a backend takes the tasks of a job and gives their results.

A backend is chosen by the device. All of them are right to the contract of algebra/leading.py.
"""

from collections.abc import Iterator, Sequence

from ...pairing.module_pairs import ModulePair
from ...progress import Progress
from ..maps import Maps
from ..settings import TransferSettings
from ..tasks import ModuleResult, Task
from .cpu import on_cpu
from .serial import serial


def run_tasks(
    tasks: Sequence[Task], maps: Maps | None, settings: TransferSettings, progress: Progress
) -> Iterator[tuple[ModulePair, ModuleResult]]:
    """The modules of all tasks with their results, in any order.

    Args:
        maps: see tasks.run.

    Raises:
        ProLoRAError: see tasks.run.
        Exception: whatever `progress` raises. Nothing of the job runs on then.
    """
    backend = {"cpu": on_cpu}.get(settings.device.type, serial)
    return backend(tasks, maps, settings, progress)
