"""Arguments that several commands have, and how their values are read.

What a value has to be is said by the job's settings, for nodes and command line alike.
"""

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..algebra.devices import can_decompose
from ..algebra.kept import NOTHING_KEPT, Forgetful
from ..errors import ProLoRAError
from ..files.kept_on_disk import KeptOnDisk
from ..pairing.block_pairs import read_pairs
from ..transfer.settings import DEFAULTS

_NUMBERS = {float: "number", int: "whole number"}


def add_energy(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--energy",
        type=setting("subspace_energy", float),
        default=DEFAULTS.subspace_energy,
        metavar="SHARE",
        help="share of a weight's energy that its subspace holds (%(default)s)",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--device",
        type=device_named,
        default="auto",
        help="auto, cpu, cuda, cuda:1 ...; auto takes cuda where there is one that is able, else "
        "cpu (%(default)s)",
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Adds what a transfer may use of the machine."""
    add_workers(parser)
    parser.add_argument(
        "--memory",
        type=_gigabytes,
        default=DEFAULTS.memory,
        metavar="GB",
        help="that modules at work may take; 0 for what suits the device (%(default)s)",
    )


def add_workers(parser: argparse.ArgumentParser) -> None:
    add_device(parser)
    parser.add_argument(
        "--workers",
        type=setting("workers", int),
        default=DEFAULTS.workers,
        metavar="N",
        help="modules at work at once on the CPU; 0 for as many as torch has threads (%(default)s)",
    )


def add_cache(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="keep the bases of the weights there, for other LoRAs between the same checkpoints "
        "(SDXL's are about 10 GB at an energy of 0.8)",
    )
    parser.add_argument(
        "--cache-gb",
        type=_gigabytes,
        default=20 * 10**9,
        metavar="GB",
        help="how much is kept there; the oldest go first (20)",
    )


def kept_of(options: argparse.Namespace) -> Forgetful:
    """What --cache keeps, or nothing."""
    return KeptOnDisk(options.cache, options.cache_gb) if options.cache else NOTHING_KEPT


def add_pairs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--pairs",
        type=Path,
        metavar="JSON",
        help="which block of the target takes which of the source, where you know better; "
        "`similarity --write-pairs` writes all",
    )


def add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="overwrite files that exist")


def pairs_of(options: argparse.Namespace) -> dict[str, str | None]:
    """The pairs of --pairs, or none."""
    return {} if options.pairs is None else read_pairs(options.pairs)


def given(*paths: Path | None) -> list[Path]:
    """The paths that were given."""
    return [path for path in paths if path is not None]


def output(text: str) -> Path:
    """The path of a file to write."""
    if text.endswith(tuple(filter(None, (os.sep, os.altsep)))):
        raise argparse.ArgumentTypeError(f"{text} is a folder. Name a file in it")
    return Path(text)


def setting(
    name: str, kind: type[float] | type[int], defaults: Any = DEFAULTS
) -> Callable[[str], Any]:
    """What reads a number of a job's settings.

    Args:
        name: of the field.
        defaults: the settings, which say what a value has to be.
    """

    def read(text: str) -> Any:
        value: Any
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {_NUMBERS[kind]}") from None
        try:
            replace(defaults, **{name: value})
        except ProLoRAError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
        return value

    return read


def _gigabytes(text: str) -> int:
    """Bytes."""
    try:
        return int(setting("memory", float)(text) * 10**9)
    except (OverflowError, ValueError):  # inf, nan
        raise argparse.ArgumentTypeError(f"{text!r} is no number of GB") from None


def device_named(name: str) -> torch.device:
    """The device of a name; `auto` is the GPU that can decompose a weight, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if can_decompose(torch.device("cuda")) else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise argparse.ArgumentTypeError(
            f"{name!r} is no device. Choose auto, cpu, cuda, or cuda:1 for the second GPU"
        ) from None
    if not can_decompose(device):
        raise argparse.ArgumentTypeError(
            f"the device {name} is not there, or cannot compute in float64 as subspaces need it. "
            "Choose auto or cpu"
        )
    return device
