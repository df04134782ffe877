"""`prolora transfer`: moves one LoRA or several to another checkpoint."""

import argparse
from dataclasses import replace
from pathlib import Path

from ..adapters import read_adapter_file
from ..batch.many import Failure, Item, Move, move_many
from ..errors import ProLoRAError, bullets
from ..files.spool import Spool
from ..named_files import load_pair
from ..transfer.job import transfer_lora
from ..transfer.report_text import summary_of, verdict_of, warning_of
from ..transfer.saving import check_place, files_written, moved_name
from ..transfer.settings import TransferSettings
from .arguments import add_cache, add_machine, given, kept_of
from .choices import MODES_TOLD, add_choices, choices_of, form_of
from .command import Command
from .files import check_outputs
from .result import add_out, add_result, check_result, output_of, write_result
from .terminal import printed_last, progress_in


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "lora",
        type=Path,
        nargs="+",
        metavar="LORA",
        help="the LoRA, a .safetensors file or a folder of PEFT; or several",
    )
    parser.add_argument(
        "--source", type=Path, required=True, metavar="CKPT", help="what it was trained on"
    )
    parser.add_argument(
        "--target", type=Path, required=True, metavar="CKPT", help="what it is to be used on"
    )
    place = parser.add_mutually_exclusive_group(required=True)
    add_out(place, folders=True)
    place.add_argument(
        "--out-dir",
        type=Path,
        metavar="DIR",
        help='the folder to write to, each LoRA as "LORA for TARGET.safetensors", a folder of PEFT '
        'as "LORA for TARGET"',
    )
    add_choices(parser)
    add_machine(parser)
    add_cache(parser)
    add_result(parser)


def _run(options: argparse.Namespace) -> None:
    if options.out_dir is None and len(options.lora) > 1:
        raise ProLoRAError(
            f"-o names one file, for {len(options.lora)} LoRAs. Name a folder with --out-dir."
        )
    if options.report is not None and len(options.lora) > 1:
        raise ProLoRAError("--report is for one LoRA. Leave it out, or move them one at a time.")
    settings = replace(
        choices_of(options).settings(),
        device=options.device,
        workers=options.workers,
        memory=options.memory,
    )
    if len(options.lora) == 1:
        _move_one(options, settings)
    else:
        _move_many(options, settings)


def _move_one(options: argparse.Namespace, settings: TransferSettings) -> None:
    (lora,) = options.lora
    if options.out_dir is None:
        options.out = output_of(options.out, lora)
    else:
        options.out = options.out_dir / moved_name(lora, options.target)
    check_result(options, options.source, options.target, options.pairs, lora=lora)
    spool = Spool(options.out.parent)
    file = read_adapter_file(lora, spool.hold)
    source, target = load_pair(options.source, options.target)
    with progress_in("module") as progress:
        kept = kept_of(options)
        result = transfer_lora(file, source, target, settings, progress, kept, spool.hold)
    spool.give_pages_back()
    write_result(result, target, options, summary_of(result.report), lora)


def _move_many(options: argparse.Namespace, settings: TransferSettings) -> None:
    """One after the other is written, so that their results are not in memory together."""
    items = _items(options)
    inputs = given(*options.lora, options.source, options.target, options.pairs)
    form = form_of(options)
    for item in items:
        check_place(item.out, form)
    check_outputs(
        [file for item in items for file in files_written(item.out, item.lora)],
        inputs,
        options.force,
    )
    pair = load_pair(options.source, options.target)
    failed = 0
    with printed_last() as said, progress_in("module") as moving, progress_in("LoRA") as writing:
        move = Move(*pair, settings, form, moving, writing, kept_of(options))
        for item, done in move_many(items, move):
            if isinstance(done, Failure):
                failed += 1
                said.append(f"NOT MOVED: {item.lora}: {done.reason}")
                continue
            said.append(f"wrote {item.out}: {verdict_of(done.report)}")
            said += bullets((*warning_of(done.report).splitlines(), *done.notes))
    if failed:
        raise ProLoRAError(f"{failed} of {len(items)} LoRAs were not moved; the others were.")


def _items(options: argparse.Namespace) -> list[Item]:
    outs: dict[Path, Path] = {}
    for lora in options.lora:
        out = options.out_dir / moved_name(lora, options.target)
        if out in outs:
            raise ProLoRAError(
                f"{outs[out]} and {lora} would both be written to {out}. Move them one at a time."
            )
        outs[out] = lora
    return [Item(lora, out) for out, lora in outs.items()]


COMMAND = Command(
    "transfer",
    "move a LoRA, or several, to another checkpoint",
    "style.safetensors --source trained_on.safetensors \\\n"
    "      --target other.safetensors -o moved.safetensors",
    _add_arguments,
    _run,
    more=MODES_TOLD,
)
