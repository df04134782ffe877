"""Safetensors files: opened without trust, written without loss.

The core reads and writes this format only. Nothing here unpickles, and nothing is written under
its final name before it is complete.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..errors import ProLoRAError
from .atomic_write import atomic_write
from .lazy_mmap import MappedFile

# First bytes of what torch.save writes: a zip archive (since torch 1.6), or a bare pickle.
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")

# What the safetensors library says (letters only: its wording changed with 0.6), and what that
# means to somebody who downloaded a file.
_PREFIX = "Error while deserializing header: "
_DAMAGE = {
    "headertoosmall": "it is too short to be a safetensors file",
    "headertoolarge": "its header claims a size that no safetensors file has",
    "invalidheaderlength": "its header claims to be longer than the file is",
    "incompletemetadata": "it ends early, or its header claims more than it holds",
    "metadataincompletebuffer": "it ends early, or its header claims more than it holds",
    "invalidoffset": "its header contradicts itself",
    "invalidshape": "its header contradicts itself",
    "tensorinvalidinfo": "its header contradicts itself",
    "header": "its header is not that of a safetensors file",
}


class SafetensorsFile:
    """An open file: the library checks and reads its header, its tensors are mapped here."""

    def __init__(self, path: Path, handle: safe_open) -> None:
        self._path, self._handle, self._mapped = path, handle, MappedFile(path)

    def keys(self) -> list[str]:
        return list(self._handle.keys())

    def metadata(self) -> dict[str, str] | None:
        found: dict[str, str] | None = self._handle.metadata()
        return found

    def get_slice(self, key: str) -> Any:
        """What tells the tensor's shape, by its get_shape."""
        return self._handle.get_slice(key)

    def get_tensor(self, key: str) -> torch.Tensor:
        return self.get_tensors([key])[key]

    def get_tensors(self, keys: Collection[str]) -> dict[str, torch.Tensor]:
        try:
            found = self._mapped.tensors(keys)
        except (OSError, ValueError) as error:
            raise ProLoRAError(f"{self._path} cannot be read: {error}.") from error
        if len(found) < len(keys):  # of kinds that the library may know all the same
            with safe_open(self._path, framework="pt") as handle:
                found |= {key: handle.get_tensor(key) for key in keys if key not in found}
        return found


@contextmanager
def open_safetensors(path: Path) -> Iterator[SafetensorsFile]:
    """Opens a safetensors file; its tensors are read when they are asked for.

    Raises:
        ProLoRAError: the file is missing, empty, truncated, a pickle or otherwise not safetensors.
    """
    _refuse_what_is_not_safetensors(path)
    try:
        handle = safe_open(path, framework="np")  # which does not map the file to be written to
    except (SafetensorError, ValueError, OSError) as error:
        raise ProLoRAError(_describe_damage(path, error)) from error
    with handle:
        yield SafetensorsFile(path, handle)


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Returns every tensor of a (small) file, and the metadata of its header."""
    with open_safetensors(path) as handle:
        return handle.get_tensors(handle.keys()), handle.metadata() or {}


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
    with atomic_write(path, overwrite) as temporary:
        save_safetensors(tensors, temporary, metadata)


def save_safetensors(
    tensors: Mapping[str, torch.Tensor], temporary: Path, metadata: Mapping[str, str]
) -> None:
    """The same into a file of atomic_write, whose errors the user sees."""
    temporary.touch()
    permissions = temporary.stat().st_mode  # the library lets the owner alone read its files
    save_file(_apart(tensors), temporary, {_whole(k): _whole(v) for k, v in metadata.items()})
    temporary.chmod(permissions)


def _whole(text: str) -> str:
    """A text that UTF-8 can hold: the name of a file may not be one."""
    return text.encode("utf-8", "replace").decode()


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each in memory of its own, as the library wants it: one bias may serve two modules."""
    apart: dict[str, torch.Tensor] = {}
    seen: set[int] = set()
    for key, tensor in tensors.items():
        own = tensor.detach().cpu().contiguous()
        place = own.untyped_storage().data_ptr()
        apart[key] = own.clone() if place in seen else own
        seen.add(place)
    return apart


def _refuse_what_is_not_safetensors(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError:
        raise ProLoRAError(f"{path} does not exist. Is the name right?") from None
    except IsADirectoryError:
        raise ProLoRAError(f"{path} is a folder. Choose a file in it.") from None
    except OSError as error:
        raise ProLoRAError(f"{path} cannot be read: {error}.") from error
    if not start:
        raise ProLoRAError(f"{path.name} is empty (0 bytes). Download or copy it again.")
    # A safetensors file begins with the length of its header, which may have the same bytes.
    if start.startswith(_PICKLE_MAGIC) and start[8:] != b"{":
        raise ProLoRAError(
            f"{path.name} is a pickle (the format of .ckpt, .pt and .bin files), which can run "
            "code when it is opened, so ProLoRA does not open it. Convert it to .safetensors; for "
            "a checkpoint, you can also load it in the graph and connect its MODEL instead."
        )


def _describe_damage(path: Path, error: Exception) -> str:
    letters = re.sub("[^a-z]", "", str(error).removeprefix(_PREFIX).lower())
    damage = next((meaning for name, meaning in _DAMAGE.items() if name in letters), str(error))
    return (
        f"{path.name} is not a readable safetensors file: {damage}. It may be a download that "
        "broke off, or another kind of file under a wrong name. Download or convert it again."
    )
