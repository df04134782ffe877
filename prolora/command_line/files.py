"""The files that a command reads and writes: refused before the long job, written after it."""

import errno
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..errors import ProLoRAError
from ..files.atomic_write import unwritable, write_text


def check_outputs(outputs: Sequence[Path], inputs: Sequence[Path], force: bool) -> None:
    """Refuses names under which nothing could be written, or something would be lost.

    Args:
        inputs: files and folders that the command reads, which are never written to.
        force: whether other files may be overwritten.

    Raises:
        ProLoRAError: it must be refused.
    """
    taken = list(inputs)
    for path in outputs:
        try:
            _check_output(path, taken, force)
        except OSError as error:
            raise unwritable(path, error) from error
        except RuntimeError as error:  # of a Python before 3.13
            raise unwritable(path, OSError(errno.ELOOP, os.strerror(errno.ELOOP))) from error
        taken.append(path)


def _check_output(path: Path, taken: Sequence[Path], force: bool) -> None:
    if path.is_dir():
        raise ProLoRAError(f"{path} is a folder. Name a file in it.")
    for other in taken:
        _refuse_second_name(path, other)
    if path.exists() and not path.is_file():
        raise ProLoRAError(f"{path} is no ordinary file. Choose another name.")
    if path.exists() and not force:
        raise ProLoRAError(f"{path} exists. Choose another name, or overwrite it with --force.")
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    tempfile.TemporaryFile(dir=folder).close()  # which refuses one that may not be written to


def _refuse_second_name(path: Path, other: Path) -> None:
    same = path.exists() and other.exists() and path.samefile(other)
    inside = path.exists() and other.resolve() in (path.parent.resolve() / path.name).parents
    if same or inside or path.resolve() == other.resolve():
        raise ProLoRAError(
            f"{path} is {'part of ' + str(other) if inside else 'named twice'}; what is there "
            "would be lost. Choose another name."
        )


def write_and_say(path: Path, text: str, said: list[str]) -> None:
    """Writes a text, and adds to what is said that it was written."""
    write_text(path, text)
    said.append(f"wrote {path}")
