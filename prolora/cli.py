"""The same jobs without a graph: `python -m prolora transfer`, `similarity` and `inspect`."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tqdm import tqdm

from ._version import __version__
from .adapters import FILE_DTYPES, lora_state_dict, read_adapter_file
from .adapters.suffixes import split_key
from .adapters.tools import OTHER_FILES, UNREADABLE, kind_of
from .comparison import text as comparison_text
from .comparison.figures import compare
from .comparison.heat_map import check_pillow, draw
from .errors import ProLoRAError
from .files.atomic_write import atomic_write
from .files.safetensors import open_safetensors
from .inspection import describe_adapter
from .models.key_map import load_checkpoint
from .models.model import Model
from .naming.output_names import CHOICES, Renamed, rename
from .pairing.block_pairs import read_pairs, write_pairs
from .provenance.written import write_lora
from .transfer.assemble import TransferResult
from .transfer.backends import Progress
from .transfer.job import transfer_lora
from .transfer.modes import MODES, mode_named
from .transfer.report_text import summary_of
from .transfer.settings import DEFAULTS, TransferSettings


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command; returns 0, or 1 after an error that the user can act on."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except ProLoRAError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("cancelled; nothing was written", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m prolora",
        description="Moves a LoRA from the checkpoint it was trained on to another one.",
    )
    parser.add_argument("--version", action="version", version=f"prolora {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    move = commands.add_parser("transfer", help="move a LoRA to another checkpoint")
    move.set_defaults(run=_transfer)
    move.add_argument("lora", type=Path, metavar="LORA", help="the LoRA, a .safetensors file")
    move.add_argument("--source", type=Path, required=True, metavar="CKPT", help="trained on this")
    move.add_argument("--target", type=Path, required=True, metavar="CKPT", help="to be used on")
    move.add_argument("-o", "--out", type=Path, required=True, help="the LoRA to write")
    move.add_argument(
        "--mode", type=_mode, default=DEFAULTS.mode, help=f"one of {', '.join(MODES)} (%(default)s)"
    )
    move.add_argument(
        "--threshold", type=float, default=DEFAULTS.threshold, help="least similarity (%(default)s)"
    )
    move.add_argument(
        "--energy",
        type=float,
        default=DEFAULTS.subspace_energy,
        help="of the subspace (%(default)s)",
    )
    move.add_argument(
        "--rank",
        type=int,
        default=DEFAULTS.rank,
        help="of the result (the source's)",
    )
    move.add_argument("--dtype", choices=FILE_DTYPES, default="fp16", help="of the file (fp16)")
    move.add_argument("--naming", choices=CHOICES, default="auto", help="of the modules (auto)")
    move.add_argument("--device", type=_device, default="cpu", help="cpu, cuda, ... (cpu)")
    move.add_argument("--pairs", type=Path, metavar="JSON", help="blocks to pair, by hand")
    move.add_argument("--report", type=Path, metavar="JSON", help="write every module's row there")

    compare = commands.add_parser("similarity", help="measure how similar two checkpoints are")
    compare.set_defaults(run=_similarity)
    compare.add_argument("source", type=Path, metavar="A", help="that LoRAs were trained on")
    compare.add_argument("target", type=Path, metavar="B", help="that they are to be used on")
    compare.add_argument("--picture", type=Path, metavar="PNG", help="draw a heat map there")
    compare.add_argument("--table", type=Path, metavar="CSV", help="write every weight's row there")
    compare.add_argument("--pairs", type=Path, metavar="JSON", help="blocks to pair, by hand")
    compare.add_argument("--write-pairs", type=Path, metavar="JSON", help="write all pairs there")
    compare.add_argument(
        "--energy",
        type=float,
        default=DEFAULTS.subspace_energy,
        help="of the subspace (%(default)s)",
    )
    compare.add_argument("--device", type=_device, default="cpu", help="cpu, cuda, ... (cpu)")

    look = commands.add_parser("inspect", help="say what a LoRA or a checkpoint is")
    look.set_defaults(run=_inspect)
    look.add_argument("file", type=Path, metavar="FILE")
    return parser


def _transfer(options: argparse.Namespace) -> None:
    inputs = [options.lora, options.source, options.target, *_given(options.pairs)]
    _refuse_to_overwrite(options.out, inputs)
    if options.report is not None:
        _refuse_to_overwrite(options.report, (*inputs, options.out))
    settings = TransferSettings(
        mode=options.mode,
        threshold=options.threshold,
        subspace_energy=options.energy,
        rank=options.rank,
        device=options.device,
        pairs=_pairs(options),
    )
    file = read_adapter_file(options.lora)
    source, target = _checkpoint(options.source), _checkpoint(options.target)
    with _progress_bar("module") as progress:
        result = transfer_lora(file, source, target, settings, progress)
    named = rename(result.contents, target.key_map, target.architecture, options.naming)
    with _printed_last(summary_of(result.report), *(f"  {note}" for note in named.notes)) as said:
        _write(result, named, options, said)


def _given(*paths: Path | None) -> list[Path]:
    return [path for path in paths if path is not None]


def _pairs(options: argparse.Namespace) -> dict[str, str | None]:
    return {} if options.pairs is None else read_pairs(options.pairs)


def _checkpoint(path: Path) -> Model:
    if _is_lora(_header(path)[0]):
        raise ProLoRAError(f"{path.name} is a LoRA, not a checkpoint. Choose a checkpoint.")
    return load_checkpoint(path)


@contextmanager
def _progress_bar(unit: str) -> Iterator[Progress]:
    with tqdm(unit=unit, disable=None) as bar:

        def progress(done: int, total: int, name: str) -> None:
            bar.total = total
            bar.update(done - bar.n)
            bar.set_postfix_str(name)

        yield progress


@contextmanager
def _printed_last(*lines: str) -> Iterator[list[str]]:
    """Lines to print once the files are written: a reader that is gone (`| head`) ends the job."""
    said = list(lines)
    try:
        yield said
    finally:
        print(*said, sep="\n")


def _write(
    result: TransferResult, named: Renamed, options: argparse.Namespace, said: list[str]
) -> None:
    if result.contents:
        tensors = lora_state_dict(named.adapters, FILE_DTYPES[options.dtype], named.style)
        write_lora(tensors, options.out, result.metadata(), options.target)
        said.append(f"wrote {options.out}")
    if options.report is not None:
        _write_text(options.report, result.report.to_json() + "\n", said)
    if not result.contents:
        raise ProLoRAError(f"{options.out} was not written: there is nothing in the result.")


def _similarity(options: argparse.Namespace) -> None:
    named = [options.source, options.target, *_given(options.pairs)]
    for out in _given(options.picture, options.table, options.write_pairs):
        _refuse_to_overwrite(out, named)
        named.append(out)
    settings = TransferSettings(
        subspace_energy=options.energy, device=options.device, pairs=_pairs(options)
    )
    if options.picture is not None:
        _check_picture(options.picture)
    source, target = _checkpoint(options.source), _checkpoint(options.target)
    with _progress_bar("weight") as progress:
        comparison = compare(source, target, settings, progress)
    with _printed_last(comparison_text.summary(comparison)) as said:
        if options.table is not None:
            _write_text(options.table, comparison_text.to_csv(comparison), said)
        if options.write_pairs is not None:
            _write_text(options.write_pairs, write_pairs(comparison.pairs), said)
        if options.picture is not None:
            with atomic_write(options.picture) as temporary:
                draw(comparison).image.save(temporary, format="PNG")
            said.append(f"wrote {options.picture}")


def _check_picture(path: Path) -> None:
    """Before the long job, not after it."""
    check_pillow()
    if path.suffix.lower() != ".png":
        raise ProLoRAError(f"The picture is a PNG; {path} is not named like one. Call it X.png.")


def _write_text(path: Path, text: str, said: list[str]) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    said.append(f"wrote {path}")


def _refuse_to_overwrite(out: Path, others: Sequence[Path]) -> None:
    if out.is_dir():
        raise ProLoRAError(f"{out} is a folder. Name a file in it.")
    for path in others:
        same = out.exists() and path.exists() and out.samefile(path)
        inside = out.exists() and path.resolve() in (out.parent.resolve() / out.name).parents
        if same or inside or out.resolve() == path.resolve():
            raise ProLoRAError(
                f"{out} is {'part of ' + str(path) if inside else 'named twice'}; what is there "
                "would be lost. Choose another name."
            )


def _mode(name: str) -> str:
    try:
        return mode_named(name).name
    except ProLoRAError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _device(name: str) -> torch.device:
    try:
        return torch.device(name)
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _inspect(options: argparse.Namespace) -> None:
    keys, metadata = _header(options.file)
    is_adapter = _is_lora(keys)
    kind = kind_of(keys, UNREADABLE if is_adapter else UNREADABLE + OTHER_FILES)
    if kind is not None:
        print(f"{options.file.name}: {kind.name}. {kind.advice}")
        return
    if is_adapter:
        print(describe_adapter(read_adapter_file(options.file)))
    else:
        model = load_checkpoint(options.file)
        tensors = sum(1 for _ in model.weights)
        print(f"{model.name}: a checkpoint, architecture {model.architecture}, {tensors} tensors")
        named = {ref.key for ref in model.key_map.values()}
        matrices = [key for key in named if len(model.weights.shape(key)) >= 2]
        print(f"  {len(matrices)} of them can carry a LoRA")
    for name, value in metadata.items():
        text = value if len(value) <= 100 else f"{value[:97]}..."
        print(f"  {name}: {text}")


def _is_lora(keys: Sequence[str]) -> bool:
    return bool(keys) and 2 * sum(split_key(key) is not None for key in keys) >= len(keys)


def _header(path: Path) -> tuple[list[str], dict[str, str]]:
    """Keys and metadata of a safetensors file; none of a folder or a GGUF file."""
    if path.is_dir() or path.suffix.lower() == ".gguf":
        return [], {}
    with open_safetensors(path) as handle:
        return list(handle.keys()), handle.metadata() or {}
