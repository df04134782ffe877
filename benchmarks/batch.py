"""Many LoRAs for one pair of SDXL checkpoints: a call for each, and one call for all.

    python -m benchmarks.batch --modules 60
    python -m benchmarks.batch --modules 60 --loras 8 64 --rank 16
    python -m benchmarks.batch --target sdxl ssd-1b --device cuda

Run it in the repository's root. `python -m prolora transfer` runs on generated files (files.py) in
processes of its own: with one LoRA, which is counted as often as there are LoRAs, and with all of
them and --out-dir. What a further LoRA costs is the difference, for each LoRA after the first.
"""

import argparse
from collections.abc import Sequence

from .report import Report, parser_of
from .runs import add_transfers, transfers

COLUMNS = (
    *("target", "LoRAs", "threads", "a call for each", "one call", "ratio"),
    *("a further LoRA", "LoRAs an hour", "peak resident MB"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each target and number of LoRAs."""
    options = _options(arguments)
    report = Report(options)
    with transfers(options) as made:
        report.table(
            f"{len(made.modules)} modules of {len(made.library.modules)}, seconds", COLUMNS
        )
        for target in options.target:
            one = made.run("ours", target, made.loras(1), options.threads)
            for count in options.loras:
                all_ = made.run("ours", target, made.loras(count), options.threads)
                report.row(
                    *(target, count, options.threads, count * one.seconds, all_.seconds),
                    count * one.seconds / all_.seconds,
                    (all_.seconds - one.seconds) / max(count - 1, 1),
                    *(3600 * count / all_.seconds, all_.peak / 1e6),
                )
    report.write()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("batch", "many LoRAs for one pair of checkpoints")
    add_transfers(parser, loras=[8], before=False)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
