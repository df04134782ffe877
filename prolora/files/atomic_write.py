"""Files are written whole or not at all: under a temporary name beside them, then renamed.

Who writes holds a lock on the temporary file, which the system takes away when the program ends, by
whatever. So the next one that writes into the folder knows what was left, on any machine.
"""

import errno
import os
import re
import stat
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from ..errors import ProLoRAError
from .new_names import give_name

try:
    import fcntl
except ImportError:  # Windows, where a file that is open cannot be removed
    fcntl = None  # type: ignore[assignment]

_PARTIAL = ".prolora-{}.partial"
_IS_PARTIAL = re.compile(r"\.prolora-[0-9a-f]{32}\.partial")
_LEFT = 3600.0  # seconds after which nobody writes to a file any more, where there are no locks
_TRIES = 10

_ADVICE = {
    **dict.fromkeys(
        (errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Make room on that disk, or choose another."
    ),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Choose a folder that may be written to, or let it be.",
    ),
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.EIO: "The disk itself reports it: choose another, and look at this one.",
}
_ELSE = "Is there room on the disk, and may this folder be written to?"


@contextmanager
def atomic_write(path: Path, overwrite: bool = True) -> Iterator[IO[bytes]]:
    """A file to be written to; at the end it takes the place of another.

    What programs that were killed have left in the folder is removed first.

    Args:
        overwrite: whether there may be a file of that name, which goes.

    Raises:
        ProLoRAError: see write_safetensors.
        NameTaken: there is one, and it may not be overwritten.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_left_over(path.parent)
        file, temporary = _begun(path.parent)
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if fcntl is not None:  # while it is locked
                give_name(temporary, path, overwrite)
        if fcntl is None:
            give_name(temporary, path, overwrite)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # it was renamed
                temporary.unlink()


def unwritable(path: Path, error: OSError) -> ProLoRAError:
    """Says why a file could not be written, and what to do."""
    why = error.strerror or str(error)
    return ProLoRAError(
        f"{path.name} could not be saved in {path.parent}: {why}. Nothing was written. "
        f"{_ADVICE.get(error.errno or 0, _ELSE)}"
    )


def remove_left_over(folder: Path) -> None:
    """Removes what programs that were killed while they wrote have left in a folder."""
    with suppress(OSError):  # it is not there, or another has removed what was
        for entry in os.scandir(folder):
            if _IS_PARTIAL.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
                _remove_unless_written(Path(entry))


def write_text(path: Path, text: str, overwrite: bool = True) -> None:
    """Writes a text whole or not at all.

    Raises:
        ProLoRAError: see atomic_write.
    """
    with atomic_write(path, overwrite) as file:
        file.write(text.encode())


def _begun(folder: Path) -> tuple[IO[bytes], Path]:
    """A new file that is locked, and its name."""
    for _ in range(_TRIES):
        path = folder / _PARTIAL.format(uuid.uuid4().hex)
        file = path.open("xb+")
        with suppress(FileNotFoundError):  # another took it for one that was left
            if _lock(file) is not False and os.path.samestat(path.stat(), os.fstat(file.fileno())):
                return file, path
        file.close()
    raise OSError(errno.EAGAIN, "another program removes what is written")


def _lock(file: IO[bytes]) -> bool | None:
    """Whether nobody else holds the file; None where that cannot be known."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a drive without locks
        return None
    return True


def _remove_unless_written(path: Path) -> None:
    with suppress(OSError):  # another has removed it, or it is another's
        with path.open("rb+") as file:
            is_left = _lock(file)
            if is_left is None:
                is_left = time.time() - os.fstat(file.fileno()).st_mtime > _LEFT
            if is_left and fcntl is not None and stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                path.unlink()
        if is_left and fcntl is None:
            path.unlink()
