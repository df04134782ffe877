"""Safetensors files: opened without trust, written without loss.

The core reads and writes this format only. Nothing here unpickles, and nothing is written under
its final name before it is complete.
"""

import os
import stat
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from typing import IO, NoReturn

import torch

from ..algebra.precision import as_bytes
from ..errors import ProLoRAError
from ..memory import is_out_of_memory
from .atomic_write import atomic_write
from .header import DamagedHeader, Header, header_bytes, read_header
from .stored import Unread, dtype_of, in_order, read_tensor, shape_of

# First bytes of what torch.save writes: a zip archive (since torch 1.6), or a bare pickle.
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


class SafetensorsFile:
    """A file whose header was read. It is opened whenever tensors are asked for, then closed.

    Args:
        state: of the file when its header was read, by _state_of.
    """

    def __init__(self, path: Path, header: Header, state: tuple[int, int]) -> None:
        self._path, self._header, self._state = path, header, state

    def keys(self) -> list[str]:
        return list(self._header.tensors)

    def metadata(self) -> dict[str, str] | None:
        found = self._header.metadata
        return None if found is None else dict(found)

    def shape(self, key: str) -> tuple[int, ...]:
        """As torch has it, which counts two numbers of 4 bits as one."""
        return shape_of(self._header.tensors[key])

    def dtype(self, key: str) -> torch.dtype:
        """Of a tensor, without reading it.

        Raises:
            ProLoRAError: this torch has no such numbers.
        """
        kind = self._header.tensors[key].kind
        found = dtype_of(kind)
        if found is None:
            raise ProLoRAError(
                f"{self._path.name}: {key} is stored as {kind}, which torch {torch.__version__} "
                "does not have. Use an fp16 version of the file, or a newer torch."
            )
        return found

    def unread(self) -> dict[str, torch.Tensor]:
        """All tensors, each of which is read whenever its values are asked for."""
        return {
            key: Unread(shape_of(place), self.dtype(key), partial(self.get_tensor, key))
            for key, place in self._header.tensors.items()
        }

    def get_tensor(self, key: str) -> torch.Tensor:
        return self.get_tensors([key])[key]

    def get_tensors(
        self, keys: Collection[str], hold: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> dict[str, torch.Tensor]:
        """Some tensors, each in memory of its own.

        Args:
            hold: puts a tensor where it may stay, before the next is read.

        Raises:
            ProLoRAError: the file cannot be read, or is not the one whose header was read: it was
                replaced, cut or written to.
        """
        for key in keys:
            self.dtype(key)
        found: dict[str, torch.Tensor] = {}
        places = self._header.tensors
        try:
            with self._path.open("rb", buffering=0) as file:
                self._refuse_another(file)
                for key in sorted(keys, key=lambda key: places[key].start):
                    tensor = read_tensor(file, places[key])
                    found[key] = tensor if hold is None else hold(tensor)
                self._refuse_another(file)
        except (EOFError, FileNotFoundError) as error:
            self._refuse(error)
        except OSError as error:
            _refuse_unreadable(self._path, error)
        return {key: found[key] for key in keys}

    def _refuse_another(self, file: IO[bytes]) -> None:
        if _state_of(os.fstat(file.fileno())) != self._state:
            self._refuse(None)

    def _refuse(self, cause: Exception | None) -> NoReturn:
        raise ProLoRAError(
            f"{self._path} was replaced, written to or removed while it was read. Wait until it is "
            "complete, and run this again."
        ) from cause


def open_safetensors(path: Path) -> SafetensorsFile:
    """Reads the header of a safetensors file; its tensors are read when they are asked for.

    Raises:
        ProLoRAError: the file is missing, empty, truncated, a pickle or otherwise not safetensors.
    """
    try:
        status = path.stat()  # before it is opened: a pipe would be waited for
        _refuse_what_is_no_file(path, status)
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            _refuse_what_is_not_safetensors(path, file.read(9))
            file.seek(0)
            return SafetensorsFile(path, read_header(file, status.st_size), _state_of(status))
    except FileNotFoundError:
        raise ProLoRAError(f"{path} does not exist. Is the name right?") from None
    except OSError as error:
        _refuse_unreadable(path, error)
    except DamagedHeader as damage:
        raise ProLoRAError(
            f"{path.name} is not a readable safetensors file: {damage}. It may be a download that "
            "broke off, or another kind of file under a wrong name. Download or convert it again."
        ) from damage


def read_safetensors(
    path: Path, hold: Callable[[torch.Tensor], torch.Tensor] | None = None
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Returns every tensor of a (small) file, and the metadata of its header; see get_tensors."""
    file = open_safetensors(path)
    return file.get_tensors(file.keys(), hold), file.metadata() or {}


def write_safetensors(
    tensors: Mapping[str, torch.Tensor],
    path: Path,
    metadata: Mapping[str, str],
    overwrite: bool = True,
) -> None:
    """Writes a file whole or not at all: a temporary name beside it first, then a rename.

    Raises:
        ProLoRAError: the folder cannot be written or the disk is full. An older file of that name
            is then as it was, and no temporary file is left behind.
    """
    with atomic_write(path, overwrite) as file:
        save_safetensors(tensors, file, metadata)


def save_safetensors(
    tensors: Mapping[str, torch.Tensor], file: IO[bytes], metadata: Mapping[str, str]
) -> None:
    """Writes the same into a file of atomic_write, from its beginning on.

    The library would write to a temporary name of its own, and leave it where it is killed.
    """
    file.seek(0)
    file.truncate()
    places = in_order(tensors)
    file.write(header_bytes(places, metadata))
    for name in places:
        file.write(as_bytes(tensors[name]).cpu().numpy().data)
    file.flush()


def _state_of(status: os.stat_result) -> tuple[int, int]:
    """What changes when a file is replaced, cut or written to: its size, and when it was written.

    Not where it lies on the disk, which some network drives tell anew each time.
    """
    return status.st_size, status.st_mtime_ns


def _refuse_unreadable(path: Path, error: OSError) -> NoReturn:
    if is_out_of_memory(error):  # which is no fault of the file
        raise error
    raise ProLoRAError(f"{path} cannot be read: {error}.") from error


def _refuse_what_is_no_file(path: Path, status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise ProLoRAError(f"{path} is a folder. Choose a file in it.")
    if not stat.S_ISREG(status.st_mode):
        raise ProLoRAError(f"{path} is no ordinary file. Choose another.")


def _refuse_what_is_not_safetensors(path: Path, start: bytes) -> None:
    if not start:
        raise ProLoRAError(f"{path.name} is empty (0 bytes). Download or copy it again.")
    # A safetensors file begins with the length of its header, which may have the same bytes.
    if start.startswith(_PICKLE_MAGIC) and start[8:] != b"{":
        raise ProLoRAError(
            f"{path.name} is a pickle (the format of .ckpt, .pt and .bin files), which can run "
            "code when it is opened, so ProLoRA does not open it. Convert it to .safetensors; for "
            "a checkpoint, you can also load it in the graph and connect its MODEL instead."
        )
