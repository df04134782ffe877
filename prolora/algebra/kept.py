"""What was computed of weights, kept in memory by their content.

A transfer with another threshold, rank or mode asks the same questions of the same weights. Their
answers are kept by what they were computed from, a digest of the numbers themselves: a model that
was patched, merged or replaced under the same name is another one, so no answer is ever stale.
"""

import hashlib
import mmap
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from itertools import count
from threading import Lock
from typing import Any, TypeVar

import torch

from .precision import as_bytes

LIMIT = 2 << 30  # bytes; what a rank-64 LoRA of SDXL needs (benchmarks/kept.py)
_FIGURE = 1 << 10  # bytes that a few numbers and their key are counted as

BASES = "subspaces"  # the last part of the keys of bases

_unread = count()

Figure = TypeVar("Figure")
Tensors = tuple[torch.Tensor, ...]


class Forgetful:
    """Keeps nothing: everything is computed when it is asked for.

    Attributes:
        notes: what the report of a job has to say of what is kept.
    """

    notes: tuple[str, ...] = ()

    def begin_job(self) -> None:
        """Tells that a new job begins; see Kept."""

    def digest(self, read: Callable[[], torch.Tensor]) -> str:
        """What a tensor is known by in a key; it is only read where something is kept.

        Unread tensors are known by a number each, so that none is ever taken for another.
        """
        return f"unread {next(_unread)}"

    def holds(self, key: Hashable) -> bool:
        """Whether what has this key is kept now."""
        return False

    def figure(self, key: Hashable, compute: Callable[[], Figure]) -> Figure:
        """A few numbers, as a frozen dataclass; what `compute` raises goes on to the caller."""
        return compute()

    def tensors(
        self, key: Hashable, compute: Callable[[], Tensors], device: torch.device
    ) -> Tensors:
        """Tensors on that device, which must not be written to."""
        return tuple(map(outside_heap, compute()))


class Kept(Forgetful):
    """Keeps what was computed, up to a limit; all bits are those that were computed.

    Where there is no room, what earlier jobs used goes first, then what is larger than the new. So
    a job that does not fit as a whole keeps the small things of all modules (which go far: factors
    of a LoRA are a twentieth of the subspaces they were projected onto) and, job after job, the
    same of the large ones, where a plain queue would have dropped each just before its use.

    Threads may share it. What is being computed is kept when it is whole.

    Args:
        limit: bytes in all.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._entries: dict[Hashable, _Entry] = {}
        self._job = 0
        self._lock = Lock()
        self.held = 0  # bytes

    def begin_job(self) -> None:
        with self._lock:
            self._job += 1

    def forget(self) -> None:
        """Drops everything."""
        with self._lock:
            self._entries.clear()
            self.held = 0

    def digest(self, read: Callable[[], torch.Tensor]) -> str:
        """Of its numbers, shape and dtype."""
        return digest_of(read())

    def holds(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._entries

    def figure(self, key: Hashable, compute: Callable[[], Figure]) -> Figure:
        found = self._find(key)
        if found is None:
            found = compute()
            self._keep(key, found, _FIGURE)
        return found  # type: ignore[no-any-return]

    def tensors(
        self, key: Hashable, compute: Callable[[], Tensors], device: torch.device
    ) -> Tensors:
        found = self._find(key)
        if found is None:
            found = tuple(outside_heap(tensor.cpu()) for tensor in compute())
            size = sum(tensor.nbytes for tensor in found)
            self._keep(key, found, size + _FIGURE)
        return tuple(tensor.to(device) for tensor in found)

    def _find(self, key: Hashable) -> Any:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            entry.job = self._job
            return entry.value

    def _keep(self, key: Hashable, value: object, size: int) -> None:
        with self._lock:
            if key not in self._entries and self._make_room(size):
                self._entries[key] = _Entry(value, size, self._job)
                self.held += size

    def _make_room(self, size: int) -> bool:
        """Drops what must give way to that many bytes; nothing if that is not enough."""
        wanted, going = self.held + size - self._limit, []
        if wanted > 0:
            order = sorted(self._entries.items(), key=lambda item: (item[1].job, -item[1].size))
            for key, entry in order:
                if wanted > 0 and (entry.job < self._job or entry.size > size):
                    going.append(key)
                    wanted -= entry.size
        if wanted > 0:
            return False
        for key in going:
            self.held -= self._entries.pop(key).size
        return True


@dataclass
class _Entry:
    """What is kept under a key, its bytes, and the last job that used it."""

    value: object
    size: int
    job: int


NOTHING_KEPT = Forgetful()


def digest_of(tensor: torch.Tensor) -> str:
    """Of a tensor's numbers, shape and dtype."""
    found = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    found.update(as_bytes(tensor).cpu().numpy().data)
    return found.hexdigest()


def outside_heap(tensor: torch.Tensor) -> torch.Tensor:
    """A copy in pages of its own, for a tensor on the CPU that outlives larger ones.

    A small tensor that is kept between large tensors that are freed leaves a hole in the heap. For
    SDXL and SSD-1B the holes cost 2.3 GB for 0.3 GB of subspaces. The pages go back to the system
    with the tensor.
    """
    if tensor.device.type != "cpu" or not tensor.numel():
        return tensor
    pages = mmap.mmap(-1, tensor.nbytes)
    return torch.frombuffer(pages, dtype=tensor.dtype).view(tensor.shape).copy_(tensor)
