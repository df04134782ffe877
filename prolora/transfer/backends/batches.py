"""Tasks in batches on a GPU: one call decomposes many weights, while a thread reads the next ones.

A batch for which there is no memory is halved, and those after it are as small; a single task for
which there is none runs on the CPU.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace

import torch

from ...lazy import lazy
from ...memory import is_out_of_memory
from ...progress import Progress
from ...threads import one_ahead
from ..maps import Maps
from ..settings import TransferSettings
from ..tasks import Results, Task, run
from .backend import Moved, Note

_ROOM = 1_400_000_000  # bytes
_CPU = torch.device("cpu")

Batch = tuple[Task, ...]


@torch.no_grad()
def in_batches(
    tasks: Sequence[Task],
    maps: Maps | None,
    settings: TransferSettings,
    progress: Progress,
    note: Note,
) -> Moved:
    """See run_tasks. The largest weights are the first."""
    order = sorted(tasks, key=lambda task: task.shorter_sides, reverse=True)
    total = sum(len(task.pairs) for task in tasks)
    done = finished = 0
    device = _Device(settings.device)
    memory = _Memory(device, settings.memory or _ROOM)

    def read(batch: Batch) -> list[Task]:
        # A task holds its weights while it is at work; those of the job stay empty.
        tasks = [replace(task) for task in batch]
        if maps is not None:
            device.read(tasks)
        return tasks

    def look() -> None:
        if finished < len(order):
            progress(done, total, order[finished].pairs[0].adapter.name)

    with closing(one_ahead(memory.batches(order), read, look)) as batches:
        for batch, at_hand in batches:
            look()
            for results in memory.moved(batch, at_hand, maps):
                yield from results
                done, finished = done + len(results), finished + 1
                look()
            device.drop(at_hand)
    memory.tell(note)
    progress(total, total, "")


@dataclass(frozen=True)
class _Device:
    """Where the tasks run, with a stream for what is read where it has streams."""

    device: torch.device

    def read(self, tasks: Sequence[Task]) -> None:
        """Reads their weights, as far as there is memory for them."""
        with self._reading:
            try:
                for task in tasks:
                    task.weights.read()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise

    def drop(self, tasks: list[Task]) -> None:
        """Lets go of weights, which the device must be done with: they are another stream's."""
        if self._has_streams:
            torch.cuda.current_stream(self.device).synchronize()
        tasks.clear()

    def empty(self) -> None:
        """Gives back what torch holds of the device's memory without need."""
        if self._has_streams:
            torch.cuda.empty_cache()

    @property
    def _reading(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._stream) if self._has_streams else nullcontext()

    @lazy
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    @property
    def _has_streams(self) -> bool:
        return self.device.type == "cuda"


@dataclass
class _Memory:
    """What there is room for on the device, which shrinks where it was not so.

    Attributes:
        room: bytes, of a batch at work and the weights of the next.
        was_halved: whether it has shrunk.
        elsewhere: modules that the CPU had to move.
    """

    device: _Device
    room: float
    was_halved: bool = False
    elsewhere: int = 0

    def batches(self, order: Sequence[Task]) -> Iterator[Batch]:
        """The tasks, as many at a time as there is room for then."""
        waiting = deque(order)
        while waiting:
            yield self._next(waiting)

    def moved(self, batch: Batch, at_hand: list[Task], maps: Maps | None) -> Iterator[Results]:
        """The results of each task of a batch, which runs in smaller ones where it has to.

        Args:
            at_hand: the same tasks with their weights; it is emptied where that failed.
        """
        waiting = deque[Task]()
        while batch:
            done = 0
            try:
                for results in run(at_hand or [replace(task) for task in batch], maps):
                    done += 1
                    yield results
            except RuntimeError as error:
                if not is_out_of_memory(error) or batch[0].settings.device == _CPU:
                    raise
            if done < len(batch):  # what has failed is gone only now: the error had held it
                waiting.extendleft(reversed(self._smaller(batch[done:])))
                self.device.drop(at_hand)
                self.device.empty()
            batch = self._next(waiting) if waiting else ()

    def _next(self, waiting: deque[Task]) -> Batch:
        """Takes as many tasks as there is room for, of one size."""
        batch = [waiting.popleft()]
        room = self.room - _size(batch)
        while waiting and _kind(waiting[0]) == _kind(batch[0]):
            room -= _size([waiting[0]])
            if room < 0:
                break
            batch.append(waiting.popleft())
        return tuple(batch)

    def _smaller(self, tasks: Batch) -> Batch:
        """The same tasks, to be tried again."""
        if len(tasks) == 1:
            self.elsewhere += len(tasks[0].pairs)
            return (replace(tasks[0], settings=replace(tasks[0].settings, device=_CPU)),)
        self.was_halved = True
        self.room = min(self.room, _size(tasks) / 2)
        return tasks

    def tell(self, note: Note) -> None:
        """Says what had no room, if anything had none."""
        did = ["fewer modules at a time were moved"] if self.was_halved else []
        did += [f"{self.elsewhere} went to the CPU"] if self.elsewhere else []
        if did:
            note(f"The device {self.device.device} ran out of memory: {', and '.join(did)}.")


def _size(tasks: Sequence[Task]) -> int:
    return sum(task.bytes_at_work + task.bytes_of_weights for task in tasks)


def _kind(task: Task) -> tuple[object, ...]:
    """What those that run together have in common."""
    return task.settings.device, task.shorter_sides
