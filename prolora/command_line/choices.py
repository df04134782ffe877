"""The arguments of a transfer: what is moved, and how the file is written."""

import argparse
from dataclasses import fields

from ..adapters import FILE_DTYPES
from ..batch.manifest import Choices
from ..errors import ProLoRAError
from ..naming.output_names import CHOICES
from ..transfer.modes import describe_modes, mode_named
from ..transfer.saving import FileForm
from ..transfer.settings import DEFAULTS
from .arguments import add_energy, add_pairs, setting

MODES_TOLD = "modes:\n  " + describe_modes("\n  ")


def add_choices(parser: argparse.ArgumentParser) -> None:
    """Adds what a transfer's settings are made of."""
    parser.add_argument(
        "--mode", type=_mode, default=DEFAULTS.mode, help="what is moved, see below (%(default)s)"
    )
    parser.add_argument(
        "--threshold",
        type=setting("threshold", float),
        default=DEFAULTS.threshold,
        metavar="PHI",
        help="modules that are less similar stay behind; 0 moves all (%(default)s)",
    )
    add_energy(parser)
    parser.add_argument(
        "--rank",
        type=setting("rank", int),
        default=DEFAULTS.rank,
        help="of the result; 0 for the source's (%(default)s)",
    )
    parser.add_argument(
        "--unserved",
        type=setting("unserved", float),
        default=DEFAULTS.unserved,
        metavar="SHARE",
        help="of their neighbours' update for blocks of the target that nothing serves, as a "
        "deepened model has them (%(default)s)",
    )
    add_pairs(parser)


def choices_of(options: argparse.Namespace) -> Choices:
    """What add_choices and add_form have asked for."""
    return Choices(**{field.name: getattr(options, field.name) for field in fields(Choices)})


def add_form(parser: argparse.ArgumentParser) -> None:
    """Adds what form_of asks for."""
    parser.add_argument(
        "--dtype", choices=FILE_DTYPES, default=FileForm.dtype, help="of the file (%(default)s)"
    )
    parser.add_argument(
        "--naming",
        choices=CHOICES,
        default=FileForm.naming,
        help="how the file names its modules; auto: as most LoRAs for that model do; source: as "
        "they are named already",
    )


def form_of(options: argparse.Namespace) -> FileForm:
    return FileForm(options.dtype, options.naming)


def _mode(name: str) -> str:
    try:
        mode = mode_named(name)
    except ProLoRAError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    if mode.needs_recording:
        raise argparse.ArgumentTypeError(
            f"mode {mode.name} needs a recording, and models that run: use the nodes in ComfyUI"
        )
    return mode.name
