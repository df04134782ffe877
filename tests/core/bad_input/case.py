"""A case of bad input: what is wrong, and what is done with it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from prolora.adapters import parse_adapter_file

NAN = float("nan")
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Case:
    """Something that is wrong.

    Attributes:
        what: in plain words, for the page.
        call: does it, in an empty folder of its own that is the working directory; it raises a
            ProLoRAError, or returns the exit code of a command that printed one.
        words: some of those that the error must have, for the test.
    """

    what: str
    call: Callable[[], object]
    words: str


@dataclass(frozen=True)
class Told:
    """What somebody was told.

    Attributes:
        text: the whole message, without the folder that the case ran in.
        foreign: what of it a library or the system says, which other versions of them say
            otherwise.
    """

    text: str
    foreign: str = ""


@dataclass(frozen=True)
class Table:
    """Cases of one kind, one below the other on the page.

    Attributes:
        title: the heading.
        where: the nodes, the commands or the function that say so.
    """

    title: str
    where: str
    cases: tuple[Case, ...]


def ones(*shape: int) -> torch.Tensor:
    return torch.ones(*shape)


def module_of_a_lora(**parts: torch.Tensor) -> Callable[[], object]:
    """A file of one module; a double underscore in a name stands for a dot."""
    tensors = {f"mid.{role.replace('__', '.')}": tensor for role, tensor in parts.items()}
    return lambda: parse_adapter_file(tensors, "style.safetensors")


def written(name: str, content: bytes | str) -> Path:
    """A file in the working directory."""
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path
