"""Reads a million damaged files: `make fuzz`, for docs/reliability.md.

    make fuzz                                           # a million in all
    make fuzz CASES=100000                              # fewer
    python tests/fuzz/campaign.py --cases 10000 gguf    # of one kind; the page stays
    python tests/fuzz/campaign.py --again FILE gguf     # one file again

atheris guides it by what of prolora/ each file reaches: a file that reaches what none before did is
changed further. A file that comes to no good ends its kind, and lies in build/fuzz.
"""

import argparse
import io
import os
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random
from types import ModuleType

import atheris

ROOT = Path(__file__).parents[2]
# A package in .venv is called tests too.
sys.modules["tests"] = ModuleType("tests")
sys.modules["tests"].__path__ = [str(ROOT / "tests")]
sys.path.insert(0, str(ROOT))

with redirect_stderr(io.StringIO()), atheris.instrument_imports(include=["prolora"]):
    from tests.fuzz import one_case
    from tests.fuzz.targets import TARGETS, seeds_of
from tests.reliability.told import Told, keep  # noqa: E402  # it must not be seen as reached

BUILD = ROOT / "build" / "fuzz"
IN_MEMORY = Path("/dev/shm")  # no disk is written a million times
EVERY = 1_000_000
LONGEST = 1 << 16  # bytes of a file


@dataclass(frozen=True)
class Outcome:
    """What came of the files of one kind.

    Attributes:
        busy: seconds of the processor, of `seconds` in all.
        reached: places in prolora/ (edges), as libFuzzer counts them.
        kept: files that reached something new.
        found: what libFuzzer says of a file that came to no good; "" where there was none.
    """

    cases: int
    seconds: float
    busy: float
    reached: int
    kept: int
    found: str

    def __str__(self) -> str:
        good = f"nothing found; {self.reached:,} places reached, {self.kept:,} files that did"
        rate = self.cases / max(self.busy, 0.01)
        return f"{self.found or good}; {rate:,.0f} in a second of the processor"


def guided(kind: str, cases: int, seed: int) -> Outcome:
    """Reads so many files of a kind in a process of its own, which libFuzzer ends."""
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=IN_MEMORY if IN_MEMORY.is_dir() else None) as name:
        folder = Path(name)
        for inner in ("corpus", "work"):
            (folder / inner).mkdir()
        for index, data in enumerate(seeds_of(kind)):
            (folder / "corpus" / f"{index}").write_bytes(data)
        began = time.monotonic()
        child = os.fork()
        if not child:
            _fuzz(kind, cases, seed, folder)
        _, status, used = os.wait4(child, 0)
        seconds, busy = time.monotonic() - began, used.ru_utime + used.ru_stime
        said = (folder / "said").read_text(errors="replace")
    counts = re.findall(r"^#(\d+)\s", said, re.MULTILINE) or ["0"]
    reached, kept = (re.findall(rf"{word}: (\d+)", said) or ["0"] for word in ("cov", "corp"))
    found = ""
    if status:
        sys.stderr.write(said[-8000:])
        raised = re.search(r"Uncaught Python exception: ===\n(.*)", said)
        found = f"FOUND: {raised[1] if raised else f'status {status}'}"
    return Outcome(int(counts[-1]), seconds, busy, int(reached[-1]), int(kept[-1]), found)


def _fuzz(kind: str, cases: int, seed: int, folder: Path) -> None:
    """Does not come back."""
    said = os.open(folder / "said", os.O_CREAT | os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(said, stream)
    target = TARGETS[kind]

    def change(data: bytes, longest: int, number: int) -> bytes:
        changed = target.mutate(data, Random(number))
        return changed if len(changed) <= longest else data

    def read(data: bytes) -> None:
        one_case.read(target, folder / "work", data)

    choices = {
        "runs": cases,
        "seed": seed,
        "max_len": LONGEST,
        "len_control": 0,
        "timeout": int(300 * one_case.SECONDS),  # of a library that comes back to no signal
        "rss_limit_mb": 0,
        "artifact_prefix": f"{BUILD}/{kind}-",
    }
    words = [f"-{name}={value}" for name, value in choices.items()]
    with one_case.limits():
        atheris.Setup([sys.argv[0], *words, str(folder / "corpus")], read, custom_mutator=change)
        atheris.Fuzz()


def again(kind: str, file: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, one_case.limits():
        taken = one_case.read(TARGETS[kind], Path(folder), file.read_bytes())
    print("taken" if taken else "refused in words")


def campaign(kinds: Sequence[str], cases: int, seed: int, kept: bool) -> bool:
    """Whether nothing was found."""
    shares = sum(TARGETS[kind].share for kind in kinds)
    good = True
    for kind in kinds:
        outcome = guided(kind, cases * TARGETS[kind].share // shares, seed)
        print(f"{TARGETS[kind].title}: {outcome.cases:,}, {outcome}", flush=True)
        good &= not outcome.found
        if kept:
            command = "make fuzz" if cases == EVERY else f"make fuzz CASES={cases}"
            words = (TARGETS[kind].title, "-", outcome.cases, str(outcome), outcome.seconds)
            keep(Told("fuzzing", *words, date.today().isoformat(), command))
    return good


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(TARGETS))
    parser.add_argument("--cases", type=int, default=EVERY)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--again", type=Path, metavar="FILE")
    parser.add_argument("--keep", action="store_true", help="its lines of docs/reliability.md")
    options = parser.parse_args()
    if options.again is not None:
        again(options.kinds[0], options.again)
        sys.exit()
    chosen = options.kinds or list(TARGETS)
    sys.exit(not campaign(chosen, options.cases, options.seed, options.keep))
