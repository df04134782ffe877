"""The LoRA that a command makes: the arguments of its file, and how it is written."""

import argparse
from pathlib import Path
from typing import Protocol

from ..errors import ProLoRAError, bullets
from ..models.model import Model
from ..transfer.report import Report
from ..transfer.saving import Result, check_place, files_written, lora_path, save_result
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


def add_out(
    parser: argparse._ActionsContainer, required: bool = False, folders: bool = False
) -> None:
    """Adds the place of the LoRA to write.

    Args:
        folders: whether it may be a folder of PEFT; then it is a text, see output_of.
    """
    parser.add_argument(
        "-o",
        "--out",
        type=str if folders else output,
        required=required,
        metavar="FILE",
        help="the LoRA to write" + ("; of a folder of PEFT another folder" if folders else ""),
    )


def output_of(text: str, lora: Path) -> Path:
    """The place of a LoRA to write, as the user has named it.

    Raises:
        ProLoRAError: it is a folder, and the LoRA is none.
    """
    try:
        return Path(text) if lora.is_dir() else output(text)
    except argparse.ArgumentTypeError as error:
        raise ProLoRAError(f"{error}.") from None


def check_result(
    options: argparse.Namespace, *inputs: Path | None, lora: Path | None = None
) -> None:
    """Refuses names of files before the job; see check_outputs.

    Args:
        lora: that is moved, where one is.
    """
    out = lora_path(options.out, lora)
    if lora is not None and lora.is_dir():
        check_place(out, form_of(options))
    files = [*files_written(out, lora), *given(options.report)]
    check_outputs(files, given(*inputs, lora), options.force)


def write_result(
    result: Reported,
    model: Model,
    options: argparse.Namespace,
    summary: str,
    lora: Path | None = None,
) -> None:
    """Writes the LoRA for a model, and the report; then prints the summary, and what was written.

    Args:
        lora: see check_result.

    Raises:
        ProLoRAError: there is nothing in the result (the report is written all the same), or a
            file cannot be written.
    """
    out = lora_path(options.out, lora)
    with printed_last(summary) as said:
        if result.contents:
            said += bullets(save_result(result, model, out, form_of(options)))
            added = "" if out == options.out else " (.safetensors was added to the name)"
            said.append(f"wrote {out}{added}")
        if options.report is not None:
            write_and_say(options.report, result.report.to_json() + "\n", said)
        if not result.contents:
            raise ProLoRAError(f"{out} was not written: there is nothing in the result.")
