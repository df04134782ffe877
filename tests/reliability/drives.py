"""Drives that refuse: small ones that are full or may only be read, of a system that can mount."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

SIZE = 40 << 20


def _mount(*words: object) -> int:
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, check=False)
    return done.returncode


@contextmanager
def small_drive(folder: Path) -> Iterator[Path]:
    """A drive of 40 MB in memory. The test is skipped where none can be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    if _mount("-t", "tmpfs", "-o", f"size={SIZE},mode=777", "tmpfs", folder):
        pytest.skip("mounts drives, which needs Linux and its root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def fill(drive: Path) -> None:
    """Leaves no room on a drive."""
    with (drive / "filler").open("wb", buffering=0) as file:
        try:
            while file.write(b"\0" * (1 << 16)):
                pass
        except OSError:
            return


def only_to_read(drive: Path) -> None:
    assert _mount("-o", "remount,ro", drive) == 0
