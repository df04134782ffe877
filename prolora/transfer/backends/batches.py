"""Tasks in batches on a GPU: one call decomposes many weights, while a thread reads the next ones.

A batch for which there is no memory is halved, and so are those after it; a single task for which
there is none runs on the CPU.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace

import torch

from ...algebra.devices import is_out_of_memory
from ...progress import Progress
from ...threads import one_ahead
from ..maps import Maps
from ..settings import TransferSettings
from ..tasks import Results, Task, run
from .backend import Moved, Note

_ROOM = 1_400_000_000  # bytes

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
    total = sum(len(task.pairs) for task in tasks)
    done, next_name = 0, ""
    memory = _Memory(settings.device, settings.memory or _ROOM)
    reader = _Reader(settings.device, maps is not None)

    def look() -> None:
        progress(done, total, next_name)

    with closing(one_ahead(memory.batches(tasks), reader.read, look)) as batches:
        for batch, read in batches:
            next_name = batch[0].pairs[0].adapter.name
            look()
            for results in memory.moved(batch, read, maps):
                yield from results
                done += len(results)
                look()
            # What a stream has still to do holds no memory of tensors that another one has made.
            reader.wait()
            del read  # or it is there until the next batch is read
    memory.tell(note)
    progress(total, total, "")


@dataclass(frozen=True)
class _Reader:
    """Reads the weights of a batch, on a stream of its own where the device has streams.

    Attributes:
        are_needed: whether the weights are looked at.
    """

    device: torch.device
    are_needed: bool

    def read(self, batch: Batch) -> Batch:
        """The same tasks with their weights, as far as there is memory for them."""
        # A task holds its weights; those of the job stay empty.
        tasks = tuple(replace(task) for task in batch)
        with torch.cuda.stream(self._stream()) if self.device.type == "cuda" else nullcontext():
            try:
                for task in tasks if self.are_needed else ():
                    task.weights.read()
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
        return tasks

    def wait(self) -> None:
        """Until the device has done what this thread gave it."""
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]


@dataclass
class _Memory:
    """What there is room for on the device, which shrinks where it was not so.

    Attributes:
        room: bytes of a batch at work and of the weights of the next.
        halved: whether it has shrunk.
        elsewhere: modules that the CPU had to move.
    """

    device: torch.device
    room: float
    halved: bool = False
    elsewhere: int = 0

    def batches(self, tasks: Sequence[Task]) -> Iterator[Batch]:
        """The tasks, those of equal sides together, as many at a time as there is room for."""
        waiting = deque(sorted(tasks, key=lambda task: task.shorter_sides, reverse=True))
        while waiting:
            batch = [waiting.popleft()]
            while waiting and _size([*batch, waiting[0]]) <= self.room:
                batch.append(waiting.popleft())
            yield tuple(batch)

    def moved(self, batch: Batch, read: Batch, maps: Maps | None) -> Iterator[Results]:
        """Runs a batch, in smaller ones where it has to be.

        Args:
            read: the same tasks with their weights.
        """
        waiting, at_hand = deque([batch]), read
        while waiting:
            tasks, done = waiting.popleft(), 0
            try:
                for results in run(at_hand, maps):
                    done += 1
                    yield results
            except RuntimeError as error:
                if not is_out_of_memory(error) or _on_cpu(tasks[0]) is tasks[0]:
                    raise
            # Only here the tensors of what has failed are gone, which the error had held.
            if done < len(tasks):
                waiting.extendleft(reversed(self._smaller(tasks[done:])))
            at_hand = tuple(replace(task) for task in waiting[0]) if waiting else ()

    def _smaller(self, tasks: Batch) -> list[Batch]:
        """The same tasks, to be tried again."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if len(tasks) == 1:
            self.elsewhere += len(tasks[0].pairs)
            return [(_on_cpu(tasks[0]),)]
        self.halved = True
        self.room = min(self.room, _size(tasks) / 2)
        middle = len(tasks) // 2
        return [tasks[:middle], tasks[middle:]]

    def tell(self, note: Note) -> None:
        """Says what had no room."""
        did = []
        if self.halved:
            did.append("fewer modules were moved at a time")
        if self.elsewhere:
            did.append(f"{self.elsewhere} of them on the CPU")
        if did:
            note(f"{self.device} ran out of memory: {', '.join(did)}. The result is the same.")


def _size(tasks: Sequence[Task]) -> int:
    return sum(task.bytes_at_work + task.bytes_of_weights for task in tasks)


def _on_cpu(task: Task) -> Task:
    """The same on the CPU; the task itself if that is where it runs."""
    cpu = torch.device("cpu")
    if task.settings.device == cpu:
        return task
    return replace(task, settings=replace(task.settings, device=cpu))
