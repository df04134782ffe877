"""One file that is read, and what may come of it: nothing bad, or a ProLoRAError."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prolora.errors import ProLoRAError

from .targets import Target

SECONDS = 2.0  # of the processor
TIMES, CONSTANT = 2, 64 << 20  # bytes of memory: so many times the file's size, and this
ROOM = 8 << 30  # bytes of addresses; who asks for more is told at once that there is none


class TooSlow(BaseException):
    """Nothing may catch it but who asked for it."""


class TooMuch(AssertionError):
    """More memory than a file of that size may take."""


def read(target: Target, folder: Path, data: bytes, seconds: float = SECONDS) -> bool:
    """Has a file read as the pack would, within limits().

    Returns:
        Whether it was taken, not refused by a ProLoRAError.

    Raises:
        BaseException: what it must not come to.
    """
    _reset_peak()
    before = _peak()
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        target.read(folder, data)
        taken = True
    except ProLoRAError as error:
        taken = False
        str(error).encode()  # a terminal and a log can show it
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    grown = _peak() - before
    if grown > TIMES * len(data) + CONSTANT:
        raise TooMuch(f"{len(data):,} bytes took {grown:,} bytes of memory")
    return taken


@contextmanager
def limits() -> Iterator[None]:
    """For all cases: none takes minutes, and none asks for terabytes unseen."""

    def too_slow(*_: object) -> None:
        raise TooSlow("it takes too long")

    old_handler = signal.signal(signal.SIGPROF, too_slow)
    old_room = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (_addresses() + ROOM, old_room[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old_room)
        signal.signal(signal.SIGPROF, old_handler)


def _addresses() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def _reset_peak() -> None:
    """Where it may not be, more than ever before is seen."""
    with suppress(OSError), open("/proc/self/clear_refs", "w") as file:  # noqa: PTH123  # is fast
        file.write("5")
