"""What is printed, and the progress of a job: a bar for people, lines for a pipe or a log."""

import io
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import NoReturn

from tqdm import tqdm

from ..errors import printable
from ..progress import Progress

_SECONDS = 5.0  # between two lines


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
    with ExitStack() as shown:
        bar: tqdm[NoReturn] | None = None

        def progress(done: int, total: int, name: str) -> None:
            nonlocal bar
            if bar is None:
                bar = shown.enter_context(tqdm(unit=unit, dynamic_ncols=True))
            bar.total = total
            bar.update(done - bar.n)
            bar.set_postfix_str(printable(name))

        yield progress


class _Lines:
    """A line every some seconds."""

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._started = self._last = time.monotonic()

    def __call__(self, done: int, total: int, name: str) -> None:
        now = time.monotonic()
        if done == 0:
            self._started = now
        if now - self._last < _SECONDS:
            return
        self._last = now
        with suppress(BrokenPipeError):  # nobody reads; the job goes on
            print(printable(self._line(done, total, name, now)), file=sys.stderr, flush=True)

    def _line(self, done: int, total: int, name: str, now: float) -> str:
        if done == 0:
            return f"reading {name}"
        left = (now - self._started) / done * (total - done)
        return f"{done} of {total} {self._unit}s, about {duration(left)} left: {name}"


def duration(seconds: float) -> str:
    """A time for people: 40 s, 3 min, 2 h 10 min."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
