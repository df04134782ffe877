"""How a long job says how far it is, and how long is left."""

import time
from collections.abc import Callable

# Called with how much is done, how much there is in all, and the name of what comes next; before
# each piece of work, and once at the end. Whatever it raises stops the job: that is how a user
# cancels.
Progress = Callable[[int, int, str], None]

_SETTLED = 3.0  # seconds of a job before its time left can be told


def silent(done: int, total: int, name: str) -> None:
    """For a job that nobody watches."""


class Pace:
    """How far a job is, in words. A job of several parts counts each of them from the beginning."""

    def __init__(self, unit: str = "") -> None:
        self._unit = f" {unit}s" if unit else ""
        self._done = self._total = 0
        self._began = float("-inf")

    def begins(self, done: int, total: int) -> bool:
        """Whether another part of the job begins; to be asked at every call of a Progress."""
        begins = total != self._total or done < self._done
        self._done, self._total = done, total
        if begins:
            self._began = time.monotonic()
        return begins

    def __str__(self) -> str:
        """As "12 of 986 modules, 3 min left"; "" for a single piece."""
        seconds = time.monotonic() - self._began
        parts = [f"{self._done} of {self._total}{self._unit}"] if self._total > 1 else []
        if 0 < self._done < self._total and seconds >= _SETTLED:
            left = seconds / self._done * (self._total - self._done)
            parts.append(f"{duration(left)} left")
        return ", ".join(parts)


def duration(seconds: float) -> str:
    """A time for people: 40 s, 3 min, 2 h 10 min."""
    if seconds < 59.5:
        return f"{max(round(seconds), 1)} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min"
