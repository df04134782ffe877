"""Reads a million damaged files: `make fuzz`, for docs/reliability.md.

    make fuzz                                           # a million in all
    make fuzz CASES=100000                              # fewer
    python tests/fuzz/campaign.py --cases 10000 gguf    # of one kind; the page stays
    python tests/fuzz/campaign.py --again FILE gguf     # one file again

atheris guides it by what of prolora/ each file reaches: a file that reaches what none before did is
changed further. A file that comes to no good ends its kind, and lies in build/fuzz.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from guided import ROOT, importable

importable()

from tests.fuzz import one_case  # noqa: E402
from tests.fuzz.targets import TARGETS, seeds_of  # noqa: E402
from tests.reliability.told import Told, keep  # noqa: E402

BUILD = ROOT / "build" / "fuzz"
IN_MEMORY = "/dev/shm"  # where there is one: no disk is written a million times
EVERY = 1_000_000
LONGEST = 1 << 16  # bytes of a file


@dataclass(frozen=True)
class Outcome:
    """What came of the files of one kind.

    Attributes:
        reached: places in prolora/ (edges), as libFuzzer counts them.
        kept: files that reached something new.
        found: what libFuzzer says of a file that came to no good; "" where there was none.
    """

    cases: int
    seconds: float
    reached: int
    kept: int
    found: str

    def __str__(self) -> str:
        good = f"nothing found; {self.reached:,} places reached, {self.kept:,} files that did"
        return f"{self.found or good}; {self.cases / self.seconds:,.0f} a second"


def guided(kind: str, cases: int, seed: int) -> Outcome:
    """Reads so many files of a kind in a process of its own."""
    BUILD.mkdir(parents=True, exist_ok=True)
    place = IN_MEMORY if Path(IN_MEMORY).is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        corpus, work = Path(folder, "corpus"), Path(folder, "work")
        corpus.mkdir()
        work.mkdir()
        for index, data in enumerate(seeds_of(kind)):
            (corpus / f"{index}").write_bytes(data)
        choices = {
            "runs": cases,
            "seed": seed,
            "max_len": LONGEST,
            "len_control": 0,
            "timeout": int(60 * one_case.SECONDS),
            "rss_limit_mb": 0,
            "artifact_prefix": f"{BUILD}/{kind}-",
        }
        words = [f"-{name}={value}" for name, value in choices.items()]
        began = time.monotonic()
        done = subprocess.run(
            [
                sys.executable,
                str(ROOT / "tests/fuzz/guided.py"),
                kind,
                str(work),
                *words,
                str(corpus),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
        seconds = time.monotonic() - began
    return _outcome(done, seconds)


def _outcome(done: "subprocess.CompletedProcess[str]", seconds: float) -> Outcome:
    counts = re.findall(r"^#(\d+)\s", done.stdout, re.MULTILINE) or ["0"]
    reached = re.findall(r"cov: (\d+)", done.stdout) or ["0"]
    kept = re.findall(r"corp: (\d+)", done.stdout) or ["0"]
    found = ""
    if done.returncode:
        sys.stderr.write(done.stdout[-8000:])
        raised = re.search(r"Uncaught Python exception: ===\n(.*)", done.stdout)
        found = f"FOUND: {raised[1] if raised else f'exit code {done.returncode}'}"
    return Outcome(int(counts[-1]), seconds, int(reached[-1]), int(kept[-1]), found)


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
