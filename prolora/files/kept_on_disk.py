"""Bases of weights, kept in a folder by the weights' content; the oldest go first.

Several processes may use one folder: an entry appears whole under its name, one that is damaged or
missing is made again, and one that cannot be written is used all the same.
"""

import os
import zlib
from collections.abc import Callable, Hashable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from threading import Lock

import torch

from ..algebra.kept import BASES, Forgetful, Tensors, digest_of, outside_heap
from ..algebra.precision import as_bytes
from ..errors import ProLoRAError
from .atomic_write import remove_left_over
from .safetensors import read_safetensors, write_safetensors

# Of what is kept. With another one, nothing that was kept before is used any more.
FORMAT = 1
_SUM = "prolora_sum"  # where the header has a checksum of the tensors
_SUFFIX = ".bases.safetensors"


class KeptOnDisk(Forgetful):
    """Keeps bases in files, in the bits that were computed; all else is computed again.

    Threads and processes may share the folder.

    Args:
        limit: bytes in all.
    """

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder, self._limit = folder, limit
        self._lock = Lock()

    def begin_job(self) -> None:
        self.notes = ()

    def digest(self, read: Callable[[], torch.Tensor]) -> str:
        return digest_of(read())

    def holds(self, key: Hashable) -> bool:
        return self._path(key).exists()

    def tensors(
        self, key: Hashable, compute: Callable[[], Tensors], device: torch.device
    ) -> Tensors:
        if not isinstance(key, tuple) or key[-1] != BASES:
            return super().tensors(key, compute, device)
        path = self._path(key)
        found = _read(path)
        if found is None:
            made = compute()
            found = tuple(tensor.cpu() for tensor in made)
            self._write(path, found)
        return tuple(outside_heap(tensor).to(device) for tensor in found)

    def _path(self, key: Hashable) -> Path:
        """By the text of a key, which has digests, shapes, a dtype, a device and numbers."""
        return self._folder / (sha256(f"{FORMAT} {key!r}".encode()).hexdigest() + _SUFFIX)

    def _write(self, path: Path, tensors: Tensors) -> None:
        named = {str(i): tensor.contiguous() for i, tensor in enumerate(tensors)}
        try:
            write_safetensors(named, path, {_SUM: _checksum(tensors)})
        except ProLoRAError as error:
            self.notes = (f"Not all bases are kept: {error}",)
            return
        with self._lock:
            self._trim(path)

    def _trim(self, newest: Path) -> None:
        """Removes entries by their last use, and what was left half-written; nothing else."""
        remove_left_over(self._folder)
        entries = []
        for path in self._folder.glob(f"*{_SUFFIX}"):
            with suppress(OSError):  # another process has just removed it
                found = path.stat()
                entries.append((path != newest, -found.st_mtime_ns, found.st_size, path))
        total = 0
        for _, _, size, path in sorted(entries):
            total += size
            if total > self._limit:
                with suppress(OSError):  # Windows has it open: the next time
                    path.unlink()


def _read(path: Path) -> Tensors | None:
    """An entry, which counts as used now; None where there is none, or a damaged one."""
    try:
        named, header = read_safetensors(path)
        tensors = tuple(named[str(i)] for i in range(len(named)))
        if header.get(_SUM) != _checksum(tensors):
            return None
    except (ProLoRAError, KeyError):
        return None
    with suppress(OSError):  # the folder may be one to read only
        os.utime(path)
    return tensors


def _checksum(tensors: Tensors) -> str:
    """Of the bytes, and of what they are."""
    found = zlib.crc32(repr([(str(t.dtype), tuple(t.shape)) for t in tensors]).encode())
    for tensor in tensors:
        found = zlib.crc32(as_bytes(tensor).numpy().data, found)
    return f"{found:08x}"
