"""Peak memory of a whole transfer between SDXL checkpoints (Linux).

    python -m benchmarks.memory --modules 60
    python -m benchmarks.memory
    python -m benchmarks.memory --target ssd-1b --mode copy     # what pairing the blocks costs
    python -m benchmarks.memory --loras 1 8                     # in one call
    python -m benchmarks.memory --device cuda

Run it in the repository's root. It runs `python -m prolora transfer` on generated files (files.py)
in a process of its own and watches that process; with --before PATH also that of an older checkout,
which moves one LoRA only.
"""

import argparse
from collections.abc import Sequence

from .report import Report, parser_of
from .runs import add_transfers, transfers

COLUMNS = (
    *("target", "mode", "LoRAs", "threads", "checkout", "peak resident", "without pages of files"),
    *("on the GPU", "seconds", "CPU seconds"),
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints a row for each transfer."""
    options = _options(arguments)
    report = Report(options)
    with transfers(options) as made:
        size = made.library.source().stat().st_size / 1e9
        lora = made.loras(1)[0].stat().st_size / 1e6
        report.say(f"A checkpoint is {size:.2f} GB, a LoRA {lora:.0f} MB, rank {made.rank}.")
        report.table(f"{len(made.modules)} modules of {len(made.library.modules)}, MB", COLUMNS)
        cases = [(target, n) for target in options.target for n in options.loras]
        for target, count in cases:
            for name in made.checkouts if count == 1 else ["ours"]:
                run = made.run(name, target, made.loras(count), options.threads)
                report.row(
                    *(target, made.mode, count, options.threads, name),
                    *(run.peak / 1e6, run.peak_own / 1e6, run.peak_device / 1e6),
                    *(run.seconds, run.cpu_seconds),
                )
    report.write()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("memory", "peak memory of a whole transfer")
    add_transfers(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
