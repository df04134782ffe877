"""`prolora extract`: makes a LoRA of the difference of two checkpoints."""

import argparse
from functools import partial
from pathlib import Path

from ..extraction.extract import extract_difference
from ..extraction.settings import EXTRACTION_DEFAULTS, ExtractionSettings
from ..extraction.text import summary_of
from ..named_files import load_pair
from .arguments import add_workers, setting
from .command import Command
from .result import add_out, add_result, check_result, write_result
from .terminal import progress_in

_setting = partial(setting, defaults=EXTRACTION_DEFAULTS)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("base", type=Path, metavar="BASE", help="what the LoRA is for")
    parser.add_argument("tuned", type=Path, metavar="TUNED", help="what the LoRA makes of it")
    parser.add_argument(
        "--rank",
        type=_setting("rank", int),
        default=EXTRACTION_DEFAULTS.rank,
        help="of a module at most; 0 for no bound (%(default)s)",
    )
    parser.add_argument(
        "--energy",
        type=_setting("energy", float),
        default=EXTRACTION_DEFAULTS.energy,
        metavar="SHARE",
        help="of a module's difference to keep, where the rank has room for it (%(default)s)",
    )
    parser.add_argument(
        "--least",
        type=_setting("least", float),
        default=EXTRACTION_DEFAULTS.least,
        metavar="SHARE",
        help="of its weight's size; modules that differ by less are left out (%(default)s)",
    )
    add_workers(parser)
    add_out(parser, required=True)
    add_result(parser)


def _run(options: argparse.Namespace) -> None:
    check_result(options, options.base, options.tuned)
    settings = ExtractionSettings(
        rank=options.rank,
        energy=options.energy,
        least=options.least,
        device=options.device,
        workers=options.workers,
    )
    base, tuned = load_pair(options.base, options.tuned)
    with progress_in("weight") as progress:
        result = extract_difference(base, tuned, settings, progress)
    write_result(result, base, options, summary_of(result))


COMMAND = Command(
    "extract",
    "make a LoRA of the difference of two checkpoints",
    "base.safetensors tuned.safetensors -o difference.safetensors --rank 64",
    _add_arguments,
    _run,
)
