"""A folder of safetensors files that can be made again, each known by a key; the oldest go first.

The key is what the file was made from and how, in hex. It stands in the header with a digest of the
tensors, so that a damaged file, and one that somebody else put there, is not taken for an entry.
Several processes may use one folder: an entry appears whole, and a missing one is made again.
"""

import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from ..algebra.precision import as_bytes
from ..errors import ProLoRAError
from .safetensors import open_safetensors, read_safetensors, write_safetensors

KEY, CONTENT = "prolora_cache_key", "prolora_cache_content"
_IN_NAME = 8  # hexadecimal digits of the key in the file's name
_LONGEST = 150  # bytes of a name; file systems take 255, of which the key has some

Write = Callable[[Mapping[str, torch.Tensor], Path, Mapping[str, str]], None]


@dataclass(frozen=True)
class Entry:
    """A file of the cache; the tensors lie in memory, so that the file may go."""

    path: Path
    tensors: Mapping[str, torch.Tensor]
    metadata: Mapping[str, str]


@dataclass(frozen=True)
class FileCache:
    """The cache in a folder, of a size in bytes."""

    folder: Path
    limit: int

    def find(self, key: str) -> Entry | None:
        """The entry of a key, which counts as used now; None where there is none.

        Raises:
            ProLoRAError: there is a file in its place that is damaged or no entry.
        """
        for path in sorted(self.folder.glob(f"* {key[:_IN_NAME]}.safetensors")):
            try:
                tensors, metadata = read_safetensors(path)
            except ProLoRAError:
                if not path.exists():  # another process has just removed it
                    continue
                raise
            if KEY not in metadata:
                raise ProLoRAError(f"{path.name} was not written by ProLoRA's cache.")
            if metadata[KEY] != key:
                continue
            if metadata.get(CONTENT) != _digest(tensors):
                raise ProLoRAError(f"{path.name} is damaged: its tensors are not what was written.")
            with suppress(OSError):  # the folder may be one to read only
                os.utime(path)
            return Entry(path, tensors, metadata)
        return None

    def keep(
        self,
        key: str,
        name: str,
        tensors: Mapping[str, torch.Tensor],
        metadata: Mapping[str, str],
        in_use: Collection[Path] = (),
        write: Write = write_safetensors,
    ) -> Path:
        """Writes an entry, then removes the oldest ones beyond the limit.

        Args:
            name: for people, of the file; what no file may be called is replaced.
            in_use: entries that are not removed.
            write: writes the file whole or not at all; it may add to its header.

        Raises:
            ProLoRAError: it cannot be written, or a file of another has its name.
        """
        fine = re.sub(r"[^\w .()+-]", "_", name).encode()[:_LONGEST].decode(errors="ignore")
        path = self.folder / f"{fine} {key[:_IN_NAME]}.safetensors"
        if _is_foreign(path):
            raise ProLoRAError(
                f"{path.name} in {path.parent} was not written by ProLoRA's cache, and is not "
                "overwritten. Move it elsewhere."
            )
        marks = {KEY: key, CONTENT: _digest(tensors)}
        write(tensors, path, {**metadata, **marks})
        self._trim({path, *in_use})
        return path

    def _trim(self, in_use: Collection[Path]) -> None:
        """Removes entries, and nothing else, by their last use."""
        entries = sorted(self._entries(), reverse=True)
        total = sum(size for _, path, size in entries if path in in_use)
        for _, path, size in entries:
            if path not in in_use:
                total += size
                if total > self.limit:
                    with suppress(OSError):  # it is gone, or Windows has it open: the next time
                        path.unlink()

    def _entries(self) -> Iterator[tuple[int, Path, int]]:
        """Last use, path and size."""
        for path in self.folder.glob("*.safetensors"):
            with suppress(OSError, ProLoRAError):  # removed meanwhile, or not readable: no entry
                found = path.stat()
                if KEY in (open_safetensors(path).metadata() or {}):
                    yield found.st_mtime_ns, path, found.st_size


def _is_foreign(path: Path) -> bool:
    """Whether a sound file is no entry. A damaged one of an entry's name is taken for an entry."""
    try:
        return KEY not in (open_safetensors(path).metadata() or {})
    except ProLoRAError:
        return False


def _digest(tensors: Mapping[str, torch.Tensor]) -> str:
    found = sha256()
    for name in sorted(tensors):
        tensor = tensors[name]
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        found.update(as_bytes(tensor).cpu().numpy().data)
    return found.hexdigest()
