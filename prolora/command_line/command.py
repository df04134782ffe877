"""A command: a row for each, and the parser that they share."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .._version import __version__

# As it was started; ComfyUI's own Python has no console script.
PROGRAM = "python -m prolora" if Path(sys.argv[0]).name == "__main__.py" else "prolora"


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **rest: Any) -> None:
        super().__init__(prog, max_help_position=28, **rest)


class Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong, and where help is."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}\nsee: {self.prog} --help\n")


@dataclass(frozen=True)
class Command:
    """What the user may ask for.

    Attributes:
        says: what it does, for the list of commands.
        example: what comes after the program's name.
        add_arguments: adds its arguments to its parser.
        run: runs it; ProLoRAError for what the user can act on.
        more: what its help says at the end.
    """

    name: str
    says: str
    example: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]
    more: str = ""


def parser_of(commands: Sequence[Command]) -> Parser:
    """A parser whose result has the chosen command's `run`."""
    parser = Parser(
        prog=PROGRAM,
        description="Moves a LoRA from the checkpoint it was trained on to another one, by the "
        "weights of the two alone.",
        epilog=_examples(*commands) + f"\n\n{PROGRAM} COMMAND --help says more.",
        formatter_class=_Help,
    )
    parser.add_argument("-V", "--version", action="version", version=f"prolora {__version__}")
    rows = parser.add_subparsers(required=True, metavar="COMMAND")
    for command in commands:
        row = rows.add_parser(
            command.name,
            help=command.says,
            description=f"{command.says[0].upper()}{command.says[1:]}.",
            epilog="\n\n".join(filter(None, (_examples(command), command.more))),
            formatter_class=_Help,
        )
        command.add_arguments(row)
        row.set_defaults(run=command.run)
    return parser


def _examples(*commands: Command) -> str:
    title = "example" if len(commands) == 1 else "examples"
    lines = (f"  {PROGRAM} {command.name} {command.example}" for command in commands)
    return "\n".join((f"{title}:", *lines))
