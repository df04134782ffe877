"""The prompt of every picture: a line of a text file, or a text beside the picture."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import ProLoRAError
from ..files.texts import read_text


@dataclass(frozen=True)
class Prompts:
    """What the pictures were asked to be.

    Attributes:
        of: row -> a prompt a picture, in the order of the pictures; empty where there are none.
        missing: why there are none, and what to do; "" where there are.
    """

    of: Mapping[str, Sequence[str]] = field(default_factory=dict)
    missing: str = ""


def prompts_from(file: Path, rows: Mapping[str, Sequence[Path]]) -> Prompts:
    """The prompts of a text file: one line for all pictures, or a line a picture of each row.

    Raises:
        ProLoRAError: the file cannot be read, or has another number of lines.
    """
    lines = [line for line in read_text(file).splitlines() if line.strip()]
    if not lines:
        raise ProLoRAError(f"{file} is empty. Write a prompt a line.")
    if len(lines) == 1:
        return Prompts({row: lines * len(pictures) for row, pictures in rows.items()})
    for row, pictures in rows.items():
        if len(pictures) != len(lines):
            raise ProLoRAError(
                f"{file} has {len(lines)} prompts, and {row} {len(pictures)} pictures. Write one "
                "line for all, or a line for each picture, in the order of the file names."
            )
    return Prompts(dict.fromkeys(rows, lines))


def prompts_beside(rows: Mapping[str, Sequence[Path]]) -> Prompts:
    """The prompts beside the pictures: a.txt for a.png, as training sets have them.

    Raises:
        ProLoRAError: a text cannot be read, or some pictures have none.
    """
    every = [path for pictures in rows.values() for path in pictures]
    without = [path for path in every if not path.with_suffix(".txt").is_file()]
    if len(without) == len(every):
        return Prompts(missing="it needs --prompts FILE, or a .txt beside each picture")
    if without:
        raise ProLoRAError(
            f"{without[0]} has no prompt beside it, {without[0].stem}.txt, while others have "
            f"({len(without)} of {len(every)} pictures have none). Write it, or name one file of "
            "prompts with --prompts."
        )
    return Prompts(
        {row: [_of_picture(path) for path in pictures] for row, pictures in rows.items()}
    )


def _of_picture(path: Path) -> str:
    text = " ".join(read_text(path.with_suffix(".txt")).split())
    if not text:
        raise ProLoRAError(f"{path.with_suffix('.txt')} is empty. Write the prompt of {path.name}.")
    return text
