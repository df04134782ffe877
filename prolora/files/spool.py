"""Tensors on the disk: in a file that has no name, and is mapped into memory.

What many results take together need not fit into memory. A file of this kind goes with the last
tensor in it, and with the process, however that ends: there is nothing to remove.
"""

import mmap
import os
import tempfile
from pathlib import Path
from typing import IO

import torch

from ..errors import ProLoRAError

_FIRST, _LARGEST = 1 << 24, 1 << 28  # bytes of a file; each next one is twice as long
_ALIGNED = 64  # bytes, as torch has its own tensors
_GIVEN_BACK = 1 << 26  # bytes after which pages go back


class Spool:
    """Where tensors may stay that are more than fit into memory.

    Args:
        folder: whose disk they go to; it need not be there yet.
        beside: another that is read meanwhile, whose pages are given back with its own.
    """

    def __init__(self, folder: Path, beside: "Spool | None" = None) -> None:
        self._folder, self._beside = folder, beside
        self._maps: list[mmap.mmap] = []
        self._used = 0  # bytes of the last of them
        self._in_use = 0  # bytes since pages went back

    def hold(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same tensor, on the disk; one that is not on the CPU, or is empty, stays as it is.

        Raises:
            ProLoRAError: there is no room on the disk, or the folder cannot be written to.
        """
        if tensor.device.type != "cpu" or not tensor.numel():
            return tensor
        start = -(-self._used // _ALIGNED) * _ALIGNED
        if not self._maps or start + tensor.nbytes > len(self._maps[-1]):
            last = len(self._maps[-1]) if self._maps else _FIRST // 2
            self._maps.append(self._mapped(max(tensor.nbytes, min(2 * last, _LARGEST))))
            start = 0
        self._used = start + tensor.nbytes
        place = torch.frombuffer(
            self._maps[-1], dtype=tensor.dtype, count=tensor.numel(), offset=start
        )
        held = place.view(tensor.shape).copy_(tensor)
        self._in_use += tensor.nbytes
        if self._in_use > _GIVEN_BACK:
            self.give_pages_back()
        return held

    def give_pages_back(self) -> None:
        """Leaves what is not in use to the system; it is read again when it is asked for."""
        self._in_use = 0
        if hasattr(mmap, "MADV_DONTNEED"):
            for mapped in self._maps:
                mapped.madvise(mmap.MADV_DONTNEED)
        if self._beside is not None:
            self._beside.give_pages_back()

    def _mapped(self, size: int) -> mmap.mmap:
        try:
            folders = (self._folder, *self._folder.absolute().parents)
            folder = next(folder for folder in folders if folder.exists())
            with tempfile.TemporaryFile(prefix=".prolora-", dir=folder) as file:
                _reserve(file, size)
                return mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise ProLoRAError(
                f"{self._folder} has no room for what is being moved: {error}. Make room on that "
                "disk, choose a folder on another, or move fewer LoRAs at once."
            ) from error


def _reserve(file: IO[bytes], size: int) -> None:
    """Takes the room on the disk: a map that finds none ends the process."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.write(bytes(size))
        file.flush()
