"""The program: its commands, and what is said when memory does not suffice."""

import argparse
from collections.abc import Sequence

from ..errors import ProLoRAError
from ..memory import is_out_of_memory, no_memory
from . import batch, evaluate, extract, inspect, similarity, transfer
from .command import parser_of
from .heap import give_large_blocks_back
from .terminal import print_anything

COMMANDS = (
    transfer.COMMAND,
    batch.COMMAND,
    similarity.COMMAND,
    extract.COMMAND,
    inspect.COMMAND,
    evaluate.COMMAND,
)


def run(arguments: Sequence[str] | None) -> None:
    """Runs the command that the arguments name.

    Raises:
        ProLoRAError: the user can act on it.
        SystemExit: for --help, --version and wrong usage.
    """
    print_anything()
    give_large_blocks_back()
    options = parser_of(COMMANDS).parse_args(arguments)
    try:
        options.run(options)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ProLoRAError(f"{no_memory(error)} {_advice(options)}") from error


def _advice(options: argparse.Namespace) -> str:
    device = getattr(options, "device", None)
    if device is not None and device.type != "cpu":
        return "Close what else uses it, or choose --device cpu, which is slower."
    less = ", or choose --workers 1, which takes less" if hasattr(options, "workers") else ""
    return f"Close what else uses it{less}."
