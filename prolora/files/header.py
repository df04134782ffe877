"""The header of a safetensors file: read as bytes, and checked as the library checks it.

The library maps a file to read its header. Where that file is cut at the same moment, or lies on a
drive that goes away, the system ends the process (SIGBUS); reading it gives an error instead.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import IO, Any, NoReturn

# The library's own limit, in bytes.
_LONGEST = 100_000_000
_MOST_SIDES = 64  # of a tensor, as torch allows
_LONGEST_NAME = 1000  # letters of a tensor's name
# Bits of a number, by the name of its kind. In a file, the library has the last of them first.
BITS = {
    **{"BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8},
    **{"F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8},
    **{"I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32},
    **{"C64": 64, "F64": 64, "I64": 64, "U64": 64},
}
_ALIGNED = 8  # bytes, by which the library has the first tensor begin
_NO_HEADER = "its header is not that of a safetensors file"
_CONTRADICTS = "its header contradicts itself"


class DamagedHeader(ValueError):
    """What is wrong with a file, to follow "FILE is not a readable safetensors file: "."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
        kind: of its numbers, a key of BITS.
        start, end: its bytes, from the file's first on.
    """

    kind: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Header:
    """What a file holds.

    Attributes:
        tensors: by name, in the order of the names.
        metadata: texts; None where there is no place for them.
    """

    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] | None


def read_header(file: IO[bytes], size: int) -> Header:
    """Reads the header of an open file, from where it stands.

    Args:
        size: of the file in bytes.

    Raises:
        DamagedHeader: it is none, or it does not describe a file of that size.
        OSError: it cannot be read.
    """
    if size < 8:
        raise DamagedHeader("it is too short to be a safetensors file")
    length = int.from_bytes(file.read(8), "little")
    if length > _LONGEST:
        raise DamagedHeader("its header claims a size that no safetensors file has")
    data = 8 + length
    if data > size:
        raise DamagedHeader("its header claims to be longer than the file is")
    try:
        found = json.loads(file.read(length).decode(), parse_constant=_refuse_constant)
        metadata = found.pop("__metadata__", None)
        tensors = {name: _tensor(entry, data) for name, entry in sorted(found.items())}
        _check_texts(found, metadata)
    except DamagedHeader:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DamagedHeader(_NO_HEADER) from error
    _check_places(tensors, data, size)
    return Header(tensors, metadata)


def header_bytes(tensors: Mapping[str, StoredTensor], metadata: Mapping[str, str]) -> bytes:
    """What a file begins with, as the library writes it.

    Args:
        tensors: in their order, their bytes counted from the end of the header.
    """
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))}
    if not metadata:
        entries = {}
    for name, tensor in tensors.items():
        offsets = tensor.start, tensor.end
        entries[name] = {"dtype": tensor.kind, "shape": tensor.shape, "data_offsets": offsets}
    text = json.dumps(entries, ensure_ascii=False, separators=(",", ":"))
    header = text.encode(errors="replace")  # half a character, as in a name of a file, is none
    header += b" " * (-len(header) % _ALIGNED)
    return len(header).to_bytes(8, "little") + header


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check_texts(names: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> None:
    """Raises ValueError, AttributeError or TypeError where they are no texts in Unicode."""
    "".join(names).encode()
    if any(len(name) > _LONGEST_NAME for name in names):
        raise DamagedHeader("it has a name that no tensor has")
    if metadata is not None:
        "".join((*metadata.keys(), *metadata.values())).encode()


def _tensor(entry: Mapping[str, Any], data: int) -> StoredTensor:
    """A tensor by its entry; ValueError, TypeError or KeyError if it is none."""
    start, end = entry["data_offsets"]
    numbers = (start, end, *entry["shape"])
    if any(type(number) is not int or not 0 <= number < 2**64 for number in numbers):
        raise ValueError(f"{numbers} are not all whole numbers")
    if entry["dtype"] not in BITS:
        raise DamagedHeader("it holds numbers of a kind that this version does not know")
    return StoredTensor(entry["dtype"], tuple(entry["shape"]), data + start, data + end)


def _check_places(tensors: Mapping[str, StoredTensor], data: int, size: int) -> None:
    """Refuses tensors that do not lie one after the other, each as long as its shape says."""
    at = data
    for tensor in sorted(tensors.values(), key=lambda tensor: (tensor.start, tensor.end)):
        if len(tensor.shape) > _MOST_SIDES or prod(max(n, 1) for n in tensor.shape) >= 2**63:
            raise DamagedHeader(_CONTRADICTS)
        bits = prod(tensor.shape) * BITS[tensor.kind]
        if tensor.start != at or bits != 8 * (tensor.end - tensor.start):
            raise DamagedHeader(_CONTRADICTS)
        at = tensor.end
    if at != size:
        raise DamagedHeader("it ends early, or its header claims more than it holds")
