"""The same jobs without a graph: `prolora transfer`, `batch`, `similarity`, `extract`, `inspect`.

A file for each command. This one is what the console script calls; it imports torch only inside
of `main`, so that Ctrl-C and a missing torch have their sentence at any moment.
"""

import os
import sys
from collections.abc import Sequence

from ..errors import ProLoRAError, printable

_LIBRARIES = ("torch", "safetensors", "numpy", "scipy", "tqdm")
DONE, FAILED, CANCELLED = 0, 1, 130  # and 2, argparse's, for wrong usage


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        arguments: what comes after the program's name; None for those it was started with.

    Returns:
        The exit code: 0, or 1 after an error that the user can act on, 130 after Ctrl-C.

    Raises:
        SystemExit: after `--help` and `--version`, and with 2 for wrong usage.
    """
    try:
        try:
            return _run(arguments)
        finally:
            print(end="", flush=True)  # which a program without a console can do as well
    except BrokenPipeError:  # nobody reads on, as after `| head`; every file is written by then
        _print_to_nowhere()
        return DONE


def _run(arguments: Sequence[str] | None) -> int:
    try:
        from .program import run

        run(arguments)
    except ProLoRAError as error:
        return _failed(str(error))
    except ModuleNotFoundError as error:
        if error.name not in _LIBRARIES:
            raise
        return _failed(
            f"{error.name} is not installed. Use ComfyUI's own Python, or: pip install "
            f"{' '.join(_LIBRARIES)}"
        )
    except BrokenPipeError:
        raise
    except OSError as error:  # of a file that no sentence of its own is for
        return _failed(f"{error}.")
    except KeyboardInterrupt:
        print("cancelled; no unfinished file is left", file=sys.stderr)
        return CANCELLED
    return DONE


def _failed(sentence: str) -> int:
    print(f"error: {printable(sentence)}", file=sys.stderr)
    return FAILED


def _print_to_nowhere() -> None:
    """So that Python does not complain of the closed pipe when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(nowhere, stream.fileno())
