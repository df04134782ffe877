"""Measures what is missing of the tables of docs/evidence.md, and writes them.

python -m benchmarks.evidence                    # every part, hours; it resumes
python -m benchmarks.evidence fidelity times     # some parts
python -m benchmarks.evidence --quick            # one row of each, some minutes, into build/ alone
python -m benchmarks.evidence --report           # the tables again, from the results that are there
"""

import argparse
import importlib
import time
from types import ModuleType

from . import where

PARTS = ("fidelity", "terrain", "language", "times")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence", description=__doc__.splitlines()[0]
    )
    parser.add_argument("parts", nargs="*", help=f"{', '.join(PARTS)}; all, unless some are named")
    parser.add_argument("--quick", action="store_true", help="one row of each; the page stays")
    parser.add_argument("--report", action="store_true", help="nothing is measured")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}: {', '.join(PARTS)}")
    for name in options.parts or PARTS:
        part = importlib.import_module(f"benchmarks.{name}")
        if not options.report:
            measure(name, part, options.quick)
        if not options.quick:
            part.report()
            where.report()


def measure(name: str, part: ModuleType, quick: bool) -> None:
    """What is missing; the time counts although it may be stopped."""
    start = time.monotonic()
    try:
        part.run(quick)
    finally:
        seconds = time.monotonic() - start
        print(f"{name}: {seconds:.0f} s", flush=True)
        if not quick:
            where.note(name, seconds)


if __name__ == "__main__":
    main()
