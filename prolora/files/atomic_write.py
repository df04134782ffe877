"""Files are written whole or not at all: under a temporary name beside them, then renamed."""

import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from ..errors import ProLoRAError
from .new_names import give_name

_PARTIAL = ".prolora-{}.partial"
_LEFT = 3600.0  # seconds after which nobody writes to a file any more


@contextmanager
def atomic_write(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """A temporary name beside a file, to be written to; at the end it becomes the file's.

    Args:
        overwrite: whether there may be a file of that name, which goes.

    Raises:
        ProLoRAError: see write_safetensors.
        NameTaken: there is one, and it may not be overwritten.
    """
    temporary = path.with_name(_PARTIAL.format(uuid.uuid4().hex))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush_to_disk(temporary)
        give_name(temporary, path, overwrite)
    except (OSError, SafetensorError) as error:
        raise ProLoRAError(
            f"{path.name} could not be saved in {path.parent}: {error}. Nothing was written. "
            "Is there room on the disk, and may this folder be written to?"
        ) from error
    finally:
        with suppress(OSError):  # there is none, or its folder is no folder
            temporary.unlink()


def remove_left_over(folder: Path) -> None:
    """Removes what programs that were killed while they wrote have left in a folder."""
    for path in folder.glob(_PARTIAL.format("*")):
        with suppress(OSError):  # another has removed it
            if time.time() - path.stat().st_mtime > _LEFT:
                path.unlink()


def write_text(path: Path, text: str, overwrite: bool = True) -> None:
    """Writes a text whole or not at all.

    Raises:
        ProLoRAError: see atomic_write.
    """
    with atomic_write(path, overwrite) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _flush_to_disk(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
