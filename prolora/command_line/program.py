"""The program: its commands, and what is said when memory does not suffice."""

from collections.abc import Sequence

import torch

from ..errors import ProLoRAError
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
    except torch.cuda.OutOfMemoryError as error:
        raise ProLoRAError(
            f"The memory of {options.device} does not suffice. Close what else uses it, or choose "
            "--device cpu, which is slower."
        ) from error
