"""`prolora inspect`: says what a LoRA or a checkpoint is, in the words of the node's info."""

import argparse
from collections.abc import Iterator
from pathlib import Path

from ..adapters import read_adapter_file
from ..adapters.tools import OTHER_FILES, UNREADABLE, kind_of
from ..errors import bullets, one_line, printable
from ..inspection import describe_adapter, describe_source
from ..models.model import Model
from ..named_files import checkpoint, header, is_lora
from ..transfer.resolve import resolve
from .command import Command


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "file", type=Path, metavar="FILE", help="a LoRA or a checkpoint, or a folder of one"
    )
    parser.add_argument(
        "--source", type=Path, metavar="CKPT", help="the checkpoint that the LoRA has to fit"
    )
    parser.add_argument(
        "--metadata", action="store_true", help="list all that the file's header says"
    )


def _run(options: argparse.Namespace) -> None:
    print(printable("\n".join(_lines(options))))


def _lines(options: argparse.Namespace) -> Iterator[str]:
    keys, metadata = header(options.file)
    adapter = is_lora(keys)
    kind = kind_of(keys, UNREADABLE if adapter else UNREADABLE + OTHER_FILES)
    if kind is not None:
        yield f"{options.file.name}: {kind.name}. {kind.advice}"
    elif adapter and options.source is not None:
        file = read_adapter_file(options.file)
        yield describe_source(resolve(file, checkpoint(options.source)))
    elif adapter:
        yield describe_adapter(read_adapter_file(options.file))
    else:
        yield _described(checkpoint(options.file))
    if options.metadata:
        yield from bullets(
            f"{one_line(name)}: {one_line(value)}" for name, value in metadata.items()
        )


def _described(model: Model) -> str:
    keys = {ref.key for ref in model.key_map.values()}
    matrices = sum(len(model.weights.shape(key)) >= 2 for key in keys)
    tensors = sum(1 for _ in model.weights)
    return (
        f"{model.name}: a checkpoint, architecture {model.architecture}, {tensors} tensors\n"
        f"- {matrices} of them can carry a LoRA"
    )


COMMAND = Command(
    "inspect",
    "say what a LoRA or a checkpoint is",
    "style.safetensors --source trained_on.safetensors",
    _add_arguments,
    _run,
)
