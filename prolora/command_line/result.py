"""The LoRA that a command makes: the arguments of its file, and how it is written."""

import argparse
from pathlib import Path
from typing import Protocol

from ..errors import ProLoRAError, bullets
from ..models.model import Model
from ..transfer.report import Report
from ..transfer.saving import Result, lora_path, save_result
from .arguments import add_force, given, output
from .choices import add_form, form_of
from .files import check_outputs, write_and_say
from .terminal import printed_last


class Reported(Result, Protocol):
    """A result that says what became of every module."""

    @property
    def report(self) -> Report: ...


def add_result(parser: argparse.ArgumentParser) -> None:
    """Adds what write_result asks for, but for the file, which add_out adds."""
    add_form(parser)
    parser.add_argument(
        "--report", type=output, metavar="JSON", help="write what became of every module there"
    )
    add_force(parser)


def add_out(parser: argparse._ActionsContainer, required: bool = False) -> None:
    parser.add_argument(
        "-o", "--out", type=output, required=required, metavar="FILE", help="the LoRA to write"
    )


def check_result(options: argparse.Namespace, *inputs: Path | None) -> None:
    """Refuses names of files before the job; see check_outputs."""
    check_outputs(given(lora_path(options.out), options.report), given(*inputs), options.force)


def write_result(result: Reported, model: Model, options: argparse.Namespace, summary: str) -> None:
    """Writes the LoRA for a model, and the report; then prints the summary, and what was written.

    Raises:
        ProLoRAError: there is nothing in the result (the report is written all the same), or a
            file cannot be written.
    """
    out = lora_path(options.out)
    with printed_last(summary) as said:
        if result.contents:
            said += bullets(save_result(result, model, out, form_of(options)))
            added = "" if out == options.out else " (.safetensors was added to the name)"
            said.append(f"wrote {out}{added}")
        if options.report is not None:
            write_and_say(options.report, result.report.to_json() + "\n", said)
        if not result.contents:
            raise ProLoRAError(f"{out} was not written: there is nothing in the result.")
