"""What a process holds of the machine, as Linux tells it, and whether that grows."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

_ROUNDS = 20  # looks at a process while a job is repeated; the first fifth warms it up
_KILOBYTE = 1 << 10


@dataclass(frozen=True)
class Held:
    """What a process holds.

    Attributes:
        memory: bytes in RAM that are its own (RssAnon), not those of files that are mapped.
        threads: how many.
        files: what is open, by name; sockets without their numbers.
        children: their process ids.
    """

    memory: int
    threads: int
    files: tuple[str, ...]
    children: tuple[int, ...]


def held_by(pid: int) -> Held:
    process = Path("/proc", str(pid))
    lines = (line.partition(":") for line in (process / "status").read_text().splitlines())
    told = {name: value.split() for name, _, value in lines}
    tasks = (process / "task").glob("*/children")
    return Held(
        memory=int(told["RssAnon"][0]) * _KILOBYTE,
        threads=int(told["Threads"][0]),
        files=tuple(sorted(_name_of(file) for file in (process / "fd").iterdir())),
        children=tuple(int(child) for task in tasks for child in task.read_text().split()),
    )


def _name_of(file: Path) -> str:
    try:
        return str(file.readlink()).partition(":[")[0]
    except FileNotFoundError:  # closed meanwhile
        return "closed"


@dataclass(frozen=True)
class Growth:
    """Between the second fifth and the last fifth of a long run; see Held."""

    memory: int
    threads: int
    files: int
    children: int


def growth(pid: int, job: Callable[[int], None], times: int) -> Growth:
    """Repeats a job, which is told how often it was done, and looks at a process meanwhile."""
    seen: list[Held] = []
    for done in range(times):
        job(done)
        if (done + 1) % max(times // _ROUNDS, 1) == 0:
            seen.append(held_by(pid))
    fifth = len(seen) // 5
    early, late = seen[fifth : 2 * fifth], seen[-fifth:]

    def more(count: Callable[[Held], int]) -> int:
        return int(median(map(count, late)) - median(map(count, early)))

    return Growth(
        memory=more(lambda held: held.memory),
        threads=more(lambda held: held.threads),
        files=more(lambda held: len(held.files)),
        children=more(lambda held: len(held.children)),
    )
