"""Measures what is missing of the tables of docs/evidence.md, and writes them.

python -m benchmarks.evidence                    # every part, hours; it resumes
python -m benchmarks.evidence fidelity times     # some parts
python -m benchmarks.evidence --quick            # one row of each, some minutes, into build/ alone
python -m benchmarks.evidence --report           # the tables again, from the results that are there
"""

import argparse
import importlib
import time

PARTS = ("fidelity", "terrain", "language", "times")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.evidence", description=__doc__.splitlines()[0]
    )
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="all, unless some are named")
    parser.add_argument("--quick", action="store_true", help="one row of each; the page stays")
    parser.add_argument("--report", action="store_true", help="nothing is measured")
    options = parser.parse_args()
    for name in options.parts or PARTS:
        part, start = importlib.import_module(f"benchmarks.{name}"), time.monotonic()
        if not options.report:
            part.run(options.quick)
        if not options.quick:
            part.report()
        print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


if __name__ == "__main__":
    main()
