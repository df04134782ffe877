"""What every benchmark is asked, and how it answers: in tables, and in a JSON file."""

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from .machine import environment, machine

BUILD = Path("build/benchmarks")

Cell = str | int | float


def parser_of(name: str, about: str, several_threads: bool = False) -> argparse.ArgumentParser:
    """A command line with the options that all have.

    Args:
        several_threads: whether --threads takes several numbers, for as many runs.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=about)
    parser.add_argument(
        "--device", type=torch.device, default=torch.device("cpu"), help="cpu or cuda (%(default)s)"
    )
    parser.add_argument(
        "--threads",
        type=int,
        nargs="+" if several_threads else None,
        default=[torch.get_num_threads()] if several_threads else torch.get_num_threads(),
        help="of the CPU (%(default)s)",
    )
    parser.add_argument(
        "--json", type=Path, default=BUILD / f"{name}.json", help="for the figures (%(default)s)"
    )
    return parser


class Report:
    """Prints a benchmark's tables in Markdown as their rows come, and keeps them for the JSON file.

    Args:
        options: of a parser of parser_of. Torch gets its threads, of several the most.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        threads = options.threads
        torch.set_num_threads(threads if isinstance(threads, int) else max(threads))
        self._path: Path = options.json
        command = shlex.join(["python", "-m", _module(), *sys.argv[1:]])
        self._content: dict[str, object] = {"command": command, "machine": machine(options.device)}
        self._tables: list[dict[str, object]] = []
        self.say(f"`{command}`", environment(options.device))

    def say(self, *lines: str) -> None:
        """Words between the tables."""
        print("", *lines, sep="\n", flush=True)

    def table(self, title: str, columns: Sequence[str]) -> None:
        """Begins one; rows follow."""
        self._tables.append({"title": title, "columns": list(columns), "rows": []})
        self.say(f"**{title}**", "")
        print(_line(columns), _line(["---"] * len(columns)), sep="\n", flush=True)

    def row(self, *cells: Cell) -> None:
        """Adds one to the table that was begun last."""
        rows = self._tables[-1]["rows"]
        assert isinstance(rows, list)
        rows.append(list(cells))
        print(_line([_shown(cell) for cell in cells]), flush=True)

    def keep(self, name: str, value: object) -> None:
        """A figure for the JSON file alone."""
        self._content[name] = value

    def write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._content["tables"] = self._tables
        self._path.write_text(json.dumps(self._content, indent=1) + "\n", encoding="utf-8")


def _module() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name if spec is not None else "benchmarks"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _shown(cell: Cell) -> str:
    """A float to three figures."""
    if not isinstance(cell, float):
        return str(cell)
    if cell != 0 and abs(cell) < 1e-2:
        return f"{cell:.0e}"
    return f"{cell:.3g}" if abs(cell) < 1000 else f"{cell:.0f}"
