"""Many LoRAs for one pair of SDXL checkpoints: a call for each, one call for all, and a batch.

    python -m benchmarks.batch --modules 60
    python -m benchmarks.batch --modules 60 --loras 8 64
    python -m benchmarks.batch --target sdxl ssd-1b --device cuda

Run it in the repository's root. Four commands run on generated files (files.py), each in a process
of its own: `python -m prolora transfer` with one LoRA, which is counted as often as there are
LoRAs; the same with all of them and --out-dir; `python -m prolora batch` with a manifest of them;
and that once more, when all is done and it has only to see so. What a further LoRA costs is what
one call for all takes longer than a call for one, for each LoRA after the first.
"""

import argparse
from collections.abc import Sequence

from .report import Report, parser_of
from .runs import add_transfers, transfers

COLUMNS = (
    *("target", "LoRAs", "threads", "a call for each", "one call", "each / one", "batch", "again"),
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
            one = made.run("ours", target, made.loras(1), options.threads).seconds
            for count in options.loras:
                loras = made.loras(count)
                together = made.run("ours", target, loras, options.threads)
                batch, again = (made.batch(target, loras, options.threads) for _ in range(2))
                report.row(
                    *(target, count, options.threads, count * one, together.seconds),
                    *(count * one / together.seconds, batch.seconds, again.seconds),
                    (together.seconds - one) / max(count - 1, 1),
                    *(3600 * count / together.seconds, together.peak / 1e6),
                )
    report.write()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("batch", "many LoRAs for one pair of checkpoints")
    add_transfers(parser, loras=[8], before=False)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
