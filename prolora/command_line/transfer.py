"""`prolora transfer`: moves a LoRA to another checkpoint."""

import argparse
from pathlib import Path

from ..adapters import read_adapter_file
from ..errors import ProLoRAError
from ..transfer.job import transfer_lora
from ..transfer.modes import describe_modes, mode_named
from ..transfer.report_text import summary_of
from ..transfer.settings import DEFAULTS, TransferSettings
from .arguments import add_device, add_energy, add_pairs, pairs_of, setting
from .command import Command
from .files import load_pair
from .result import add_result, check_result, write_result
from .terminal import progress_in


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lora", type=Path, metavar="LORA", help="the LoRA, a .safetensors file")
    parser.add_argument(
        "--source", type=Path, required=True, metavar="CKPT", help="what it was trained on"
    )
    parser.add_argument(
        "--target", type=Path, required=True, metavar="CKPT", help="what it is to be used on"
    )
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
    add_device(parser)
    add_result(parser)


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


def _run(options: argparse.Namespace) -> None:
    check_result(options, options.lora, options.source, options.target, options.pairs)
    settings = TransferSettings(
        mode=options.mode,
        threshold=options.threshold,
        subspace_energy=options.energy,
        rank=options.rank,
        unserved=options.unserved,
        device=options.device,
        pairs=pairs_of(options),
    )
    file = read_adapter_file(options.lora)
    source, target = load_pair(options.source, options.target)
    with progress_in("module") as progress:
        result = transfer_lora(file, source, target, settings, progress)
    write_result(result, target, options, summary_of(result.report))


COMMAND = Command(
    "transfer",
    "move a LoRA to another checkpoint",
    "style.safetensors --source trained_on.safetensors \\\n"
    "      --target other.safetensors -o moved.safetensors",
    _add_arguments,
    _run,
    more="modes:\n  " + describe_modes("\n  "),
)
