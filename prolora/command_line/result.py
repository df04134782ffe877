"""The LoRA that a command makes: the arguments of its file, and how it is written."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ..adapters import FILE_DTYPES, Part, lora_state_dict
from ..errors import ProLoRAError, bullets
from ..models.model import Model
from ..naming.output_names import CHOICES, rename
from ..provenance.written import write_lora
from ..transfer.report import Report
from .arguments import add_force, given, output
from .files import check_outputs, lora_path, write_and_say
from .terminal import printed_last


class Result(Protocol):
    """What a job returns."""

    @property
    def contents(self) -> tuple[Part, ...]: ...

    @property
    def report(self) -> Report: ...

    def metadata(self) -> Mapping[str, str]: ...


def add_result(parser: argparse.ArgumentParser) -> None:
    """Adds what write_result asks for."""
    parser.add_argument(
        "-o", "--out", type=output, required=True, metavar="FILE", help="the LoRA to write"
    )
    parser.add_argument(
        "--dtype", choices=FILE_DTYPES, default="fp16", help="of the file (%(default)s)"
    )
    parser.add_argument(
        "--naming",
        choices=CHOICES,
        default="auto",
        help="how the file names its modules; auto: as most LoRAs for that model do; source: as "
        "they are named already",
    )
    parser.add_argument(
        "--report", type=output, metavar="JSON", help="write what became of every module there"
    )
    add_force(parser)


def check_result(options: argparse.Namespace, *inputs: Path | None) -> None:
    """Refuses names of files before the job; see check_outputs."""
    check_outputs(given(lora_path(options.out), options.report), given(*inputs), options.force)


def write_result(result: Result, model: Model, options: argparse.Namespace, summary: str) -> None:
    """Writes the LoRA for a model, and the report; then prints the summary, and what was written.

    Raises:
        ProLoRAError: there is nothing in the result (the report is written all the same), or a
            file cannot be written.
    """
    out = lora_path(options.out)
    named = rename(result.contents, model.key_map, model.architecture, options.naming)
    with printed_last(summary, *bullets(named.notes)) as said:
        if result.contents:
            tensors = lora_state_dict(named.adapters, FILE_DTYPES[options.dtype], named.style)
            write_lora(tensors, out, result.metadata(), model.path)
            added = "" if out == options.out else " (.safetensors was added to the name)"
            said.append(f"wrote {out}{added}")
        if options.report is not None:
            write_and_say(options.report, result.report.to_json() + "\n", said)
        if not result.contents:
            raise ProLoRAError(f"{out} was not written: there is nothing in the result.")
