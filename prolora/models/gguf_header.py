"""The header of a GGUF file: what is in it and where, read without trust.

The gguf package follows every number of a header, whatever the file's size: a count of 2^60 keeps
it at work for ever. Here nothing is believed that the file is too short for. The layout is that of
ggml's docs/gguf.md, versions 2 and 3.
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import IO

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MOST_SIDES = 8  # of a tensor; ggml has 4
_MOST_NUMBERS = 64  # of an array that is kept
_LONGEST_NAME = 1000  # bytes; ggml has 64 for tensors
_ALIGNMENT = "general.alignment"
# Kind of a value -> its format in struct.
_NUMBERS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file.

    Attributes:
        sides: in ggml's order, the innermost first.
        kind: ggml's number of its type.
        start: of its bytes in the file.
    """

    sides: tuple[int, ...]
    kind: int
    start: int


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Attributes:
        tensors: by name.
        numbers: by name, the values that are numbers or short arrays of numbers.
        foreign: it was written for machines of another byte order, and nothing of it was read.
    """

    tensors: Mapping[str, StoredTensor]
    numbers: Mapping[str, tuple[float, ...]]
    foreign: bool = False


def read_header(file: IO[bytes], size: int) -> Header:
    """Reads the header of an open file, from where it stands.

    Args:
        size: of the file in bytes.

    Raises:
        ValueError: it is none, or claims more than the file holds.
        OSError: it cannot be read.
    """
    reader = _Reader(file, size)
    if reader.bytes_(4) != _MAGIC:
        raise ValueError("it does not begin as one")
    version = reader.number("I")
    if version & 0xFFFF == 0:
        return Header({}, {}, foreign=True)
    if version not in _VERSIONS:
        raise ValueError(f"its version is {version}")
    count, pairs = reader.number("Q"), reader.number("Q")
    numbers: dict[str, tuple[float, ...]] = {}
    for _ in range(pairs):
        name = reader.text()
        if name in numbers:
            raise ValueError(f"{name} is in it twice")
        numbers[name] = reader.value(reader.number("I"))
    alignment = (numbers.get(_ALIGNMENT) or (32,))[0]
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"its {_ALIGNMENT} is {alignment}, and no power of two")
    tensors: dict[str, StoredTensor] = {}
    for _ in range(count):
        name = reader.text()
        if name in tensors:
            raise ValueError(f"{name} is in it twice")
        tensors[name] = reader.tensor()
    data = -(-reader.at // alignment) * alignment
    placed = {
        name: StoredTensor(tensor.sides, tensor.kind, data + tensor.start)
        for name, tensor in tensors.items()
    }
    return Header(placed, numbers)


class _Reader:
    """Reads on in a file, and never beyond its end."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file, self._size, self.at = file, size, 0

    def bytes_(self, count: int) -> bytes:
        self._claim(count)
        found = self._file.read(count)
        if len(found) != count:
            raise ValueError("it was cut while it was read")
        return found

    def number(self, kind: str) -> int:
        found: int = struct.unpack(f"<{kind}", self.bytes_(struct.calcsize(kind)))[0]
        return found

    def text(self) -> str:
        length = self.number("Q")
        if length > _LONGEST_NAME:
            raise ValueError(f"it has a name of {length} letters")
        return self.bytes_(length).decode()

    def value(self, kind: int) -> tuple[float, ...]:
        """A number, or a few; () for texts and long arrays, which are left out."""
        if kind in _NUMBERS:
            return (self.number(_NUMBERS[kind]),)
        if kind == _STRING:
            self._skip(self.number("Q"))
            return ()
        if kind == _ARRAY:
            return self._array(self.number("I"), self.number("Q"))
        raise ValueError(f"it has a value of the unknown kind {kind}")

    def tensor(self) -> StoredTensor:
        """A tensor, whose start is counted from where the data begin."""
        count = self.number("I")
        if count > _MOST_SIDES:
            raise ValueError(f"it has a tensor of {count} dimensions")
        sides = tuple(self.number("Q") for _ in range(count))
        if prod(max(side, 1) for side in sides) >= 2**63:
            raise ValueError(f"it has a tensor of the shape {list(sides)}")
        return StoredTensor(sides, self.number("I"), self.number("Q"))

    def _array(self, kind: int, count: int) -> tuple[float, ...]:
        if kind in _NUMBERS:
            if count <= _MOST_NUMBERS:
                return tuple(self.number(_NUMBERS[kind]) for _ in range(count))
            self._skip(count * struct.calcsize(_NUMBERS[kind]))
            return ()
        if kind != _STRING:  # nor does ggml read arrays of arrays
            raise ValueError(f"it has an array of the kind {kind}")
        for _ in range(count):
            self._skip(self.number("Q"))
        return ()

    def _skip(self, count: int) -> None:
        self._claim(count)
        self._file.seek(count, 1)

    def _claim(self, count: int) -> None:
        self.at += count
        if self.at > self._size:
            raise ValueError("it ends early, or its header claims more than it holds")
