"""What is in a file: its SHA-256, and a memory of it, so that a large file is read once."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from ..errors import ProLoRAError
from ..progress import Progress, silent
from .atomic_write import write_text
from .json_text import parse_json

_PIECE = 2**22
_MB = 10**6
# Clocks of file systems tick this slowly: of a file that changed since, a second change could
# bear the same time.
_TICK = 2.0


def file_sha256(path: Path, progress: Progress = silent, start: int = 0) -> str:
    """The SHA-256 of a file's bytes, in 64 hexadecimal digits.

    Args:
        progress: called with the MB read and all of them, before every few MB.
        start: where the bytes begin that count.

    Raises:
        ProLoRAError: the file cannot be read.
        Exception: whatever `progress` raises.
    """
    found = sha256()
    try:
        total = path.stat().st_size
        with path.open("rb") as file:
            file.seek(start)
            while piece := file.read(_PIECE):
                done = file.tell() - len(piece)
                progress(done // _MB, max(total // _MB, 1), f"MB of {path.name} read")
                found.update(piece)
    except OSError as error:
        raise ProLoRAError(f"{path} cannot be read: {error}.") from error
    return found.hexdigest()


def stamp(path: Path) -> str:
    """What changes when a file does, without reading it: sizes, times and its place on the disk.

    The time of the last change of the entry (ctime) is part of it, which no copying tool sets back
    as it does the time of the content. On Windows that is the time of creation.

    Raises:
        OSError: the file is not there.
    """
    found = path.stat()
    times = found.st_mtime_ns, found.st_ctime_ns
    return " ".join(map(str, (found.st_size, *times, found.st_ino, found.st_dev)))


class DigestMemory:
    """The SHA-256 of files, remembered in a JSON file for as long as their stamps stay.

    Several processes may use one file: it is replaced whole, and what one of them loses is read
    again.

    Args:
        path: of the JSON file.
        is_kept: whether what is new is written there.
    """

    def __init__(self, path: Path, is_kept: bool = True) -> None:
        self._path, self._is_kept = path, is_kept
        self._known: dict[str, tuple[str, str]] | None = None  # within `together`

    @contextmanager
    def together(self) -> Iterator[None]:
        """Reads the JSON file once, and writes it once, for all that is asked within."""
        self._known = known = self._read()
        before = dict(known)
        try:
            yield
        finally:
            self._known = None
            if known != before:
                self._write(known)

    def of(self, file: Path, progress: Progress = silent) -> str:
        """The SHA-256 of a file.

        Raises:
            ProLoRAError: the file cannot be read, or was written while it was read.
            Exception: whatever `progress` raises.
        """
        file = file.resolve()
        before = _stamped(file)
        known = self._read() if self._known is None else self._known
        if str(file) in known and known[str(file)][0] == before:
            return known[str(file)][1]
        # A time in the future, as of an unpacked archive, is none that a change now would bear.
        times = file.stat().st_mtime, file.stat().st_ctime
        settled = all(abs(time.time() - at) > _TICK for at in times)
        digest = file_sha256(file, progress)
        if _stamped(file) != before:
            raise ProLoRAError(f"{file} was written while it was read. Wait until it is complete.")
        if settled:
            known[str(file)] = before, digest
            if self._known is None:
                self._write(known)
        return digest

    def _read(self) -> dict[str, tuple[str, str]]:
        """None of it where the file is missing, damaged or another's."""
        if not self._path.is_file():  # a pipe would be waited for
            return {}
        try:
            found = parse_json(self._path.read_text(encoding="utf-8"))
            return {str(path): (str(at), str(digest)) for path, (at, digest) in found.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}

    def _write(self, known: dict[str, tuple[str, str]]) -> None:
        if not self._is_kept:
            return
        there = {path: entry for path, entry in known.items() if Path(path).exists()}
        with suppress(ProLoRAError):  # else the files are read again
            write_text(self._path, json.dumps(there, indent=1))


def _stamped(path: Path) -> str:
    try:
        return stamp(path)
    except OSError as error:
        raise ProLoRAError(f"{path} cannot be read: {error}.") from error
