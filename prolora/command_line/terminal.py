"""What is printed, and the progress of a job: a bar for people, lines for a pipe or a log."""

import io
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NoReturn

from tqdm import tqdm

from ..errors import printable
from ..progress import Pace, Progress

_SECONDS = 5.0  # between two lines
_BAR = "{percentage:3.0f}%|{bar:20}| {desc}"


def print_anything() -> None:
    """Prints what the terminal's encoding has no letter for as an escape, and does not fail."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


@contextmanager
def printed_last(*lines: str) -> Iterator[list[str]]:
    """Lines to print once the files are written: a reader that is gone (`| head`) ends the job."""
    said = list(lines)
    try:
        yield said
    finally:
        if said:
            print(printable("\n".join(said)))


@contextmanager
def progress_in(unit: str) -> Iterator[Progress]:
    """Shows on standard error how far a job is, in units such as "module"."""
    if not sys.stderr.isatty():
        yield _Lines(unit)
        return
    pace = Pace(unit)
    with ExitStack() as shown:
        bar: tqdm[NoReturn] | None = None

        def progress(done: int, total: int, name: str) -> None:
            nonlocal bar
            if bar is None:
                bar = shown.enter_context(tqdm(unit=unit, dynamic_ncols=True, bar_format=_BAR))
            if pace.begins(done, total):
                bar.reset(total)
            bar.n = done
            bar.set_description_str(printable(": ".join(filter(None, (str(pace), name)))))

        yield progress


class _Lines:
    """A line every some seconds."""

    def __init__(self, unit: str) -> None:
        self._pace = Pace(unit)
        self._last = time.monotonic()

    def __call__(self, done: int, total: int, name: str) -> None:
        now = time.monotonic()
        self._pace.begins(done, total)
        if now - self._last < _SECONDS:
            return
        self._last = now
        said = str(self._pace) or "reading"
        with suppress(BrokenPipeError):  # nobody reads; the job goes on
            print(printable(f"{said}: {name}"), file=sys.stderr, flush=True)
