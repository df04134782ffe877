"""`prolora transfer`: moves a LoRA to another checkpoint."""

import argparse
from pathlib import Path

from ..adapters import FILE_DTYPES, lora_state_dict, read_adapter_file
from ..errors import ProLoRAError
from ..files.safetensors import write_safetensors
from ..naming.output_names import CHOICES, Renamed, rename
from ..transfer.assemble import TransferResult
from ..transfer.job import transfer_lora
from ..transfer.modes import describe_modes, mode_named
from ..transfer.report_text import summary_of
from ..transfer.settings import DEFAULTS, TransferSettings
from .arguments import (
    add_device,
    add_energy,
    add_force,
    add_pairs,
    given,
    output,
    pairs_of,
    setting,
)
from .command import Command
from .files import check_outputs, load_pair, lora_path, write_text
from .terminal import printed_last, progress_in


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("lora", type=Path, metavar="LORA", help="the LoRA, a .safetensors file")
    parser.add_argument(
        "--source", type=Path, required=True, metavar="CKPT", help="what it was trained on"
    )
    parser.add_argument(
        "--target", type=Path, required=True, metavar="CKPT", help="what it is to be used on"
    )
    parser.add_argument(
        "-o", "--out", type=output, required=True, metavar="FILE", help="the LoRA to write"
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
        "--dtype", choices=FILE_DTYPES, default="fp16", help="of the file (%(default)s)"
    )
    parser.add_argument(
        "--naming",
        choices=CHOICES,
        default="auto",
        help="how the file names its modules; auto: as most LoRAs for the target do; source: as "
        "the LoRA does",
    )
    add_device(parser)
    add_pairs(parser)
    parser.add_argument(
        "--report", type=output, metavar="JSON", help="write what became of every module there"
    )
    add_force(parser)


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
    inputs = given(options.lora, options.source, options.target, options.pairs)
    out = lora_path(options.out)
    check_outputs(given(out, options.report), inputs, options.force)
    settings = TransferSettings(
        mode=options.mode,
        threshold=options.threshold,
        subspace_energy=options.energy,
        rank=options.rank,
        device=options.device,
        pairs=pairs_of(options),
    )
    file = read_adapter_file(options.lora)
    source, target = load_pair(options.source, options.target)
    with progress_in("module") as progress:
        result = transfer_lora(file, source, target, settings, progress)
    named = rename(result.contents, target.key_map, target.architecture, options.naming)
    with printed_last(summary_of(result.report), *(f"  {note}" for note in named.notes)) as said:
        _write(result, named, out, options, said)


def _write(
    result: TransferResult,
    named: Renamed,
    out: Path,
    options: argparse.Namespace,
    said: list[str],
) -> None:
    if result.contents:
        tensors = lora_state_dict(named.adapters, FILE_DTYPES[options.dtype], named.style)
        write_safetensors(tensors, out, result.metadata())
        added = "" if out == options.out else " (.safetensors was added to the name)"
        said.append(f"wrote {out}{added}")
    if options.report is not None:
        write_text(options.report, result.report.to_json() + "\n", said)
    if not result.contents:
        raise ProLoRAError(f"{out} was not written: there is nothing in the result.")


COMMAND = Command(
    "transfer",
    "move a LoRA to another checkpoint",
    "style.safetensors --source trained_on.safetensors \\\n"
    "      --target other.safetensors -o moved.safetensors",
    _add_arguments,
    _run,
    more="modes:\n  " + describe_modes("\n  "),
)
