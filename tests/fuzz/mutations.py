"""Files of each format, changed at random; most stay whole enough to be read further."""

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from random import Random

from . import documents
from .documents import Pairs, Raw, mutated, parsed, written

Mutate = Callable[[bytes, Random], bytes]

_BYTES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0"), 1),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 2),
    **dict.fromkeys(("I32", "U32", "F32"), 4),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 8),
}
# Of dtypes that this torch may not know, and that nobody knows.
_STRANGE = ("F4", "F6_E2M3", "F6_E3M2", "F8_E8M0", "U16", "C64", "f32", "", "I128")
_SIDES = (0, 1, 2, 3, 4, 5, 7, 8, 16, 24, 64, 1000, 2**31, 2**40, 2**62, 2**63 - 1, 2**64 - 1)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-30, 1e30, 65504.0, float("nan"), float("inf"), -1e308)
_LARGEST = 1 << 14  # bytes of a tensor that is really there
_METADATA = "__metadata__"


def of_bytes(data: bytes, random: Random) -> bytes:
    """Of any file: bits, ends, pieces twice, numbers of a machine's width."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8))):
        at = random.randrange(len(changed) + 1)
        kind = random.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1 and at < len(changed):
            changed[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
        elif kind == 2:
            del changed[at : None if random.random() < 0.3 else at + random.randrange(1, 9)]
        elif kind == 3:
            start = random.randrange(len(changed) + 1)
            changed[at:at] = changed[start : start + random.choice((1, 4, 16, 64))]
        elif kind == 4:
            number = random.choice(documents.NUMBERS[:16])
            changed[at : at + 8] = struct.pack("<Q", int(number) % 2**64)
        else:
            changed[at:at] = random.choice(documents.TEXTS).encode("utf-8", "surrogatepass")
    return bytes(changed)


def of_json(*words: str) -> Mutate:
    """Args:
    words: names that mean something where it is read.
    """

    def mutate(data: bytes, random: Random) -> bytes:
        try:
            tree = parsed(data.decode())
        except (ValueError, RecursionError):
            return of_bytes(data, random)
        if random.random() < 0.1:
            return of_bytes(data, random)
        return written(mutated(tree, random, words)).encode("utf-8", "surrogatepass")

    return mutate


def of_text(*words: str) -> Mutate:
    """Of lines and cells; lines of JSON as such."""
    in_json = of_json(*words)

    def mutate(data: bytes, random: Random) -> bytes:
        lines = data.split(b"\n")
        index = random.randrange(len(lines))
        if lines[index].startswith(b"{") and random.random() < 0.8:
            lines[index] = in_json(lines[index], random)
            return b"\n".join(lines)
        kind = random.randrange(5)
        if kind == 0:
            return of_bytes(data, random)
        if kind == 1:
            lines.insert(random.randrange(len(lines) + 1), lines[index])
        elif kind == 2:
            del lines[index]
        else:
            split = random.choice((b",", b" ", b":", b";"))
            cells = lines[index].split(split)
            new = str(random.choice((*documents.TEXTS, *documents.NUMBERS, *words, *words)))
            cells[random.randrange(len(cells))] = new.encode("utf-8", "surrogatepass")
            lines[index] = split.join(cells)
        return b"\n".join(lines)

    return mutate


@dataclass(frozen=True)
class _Stored:
    key: str
    dtype: str
    shape: tuple[int, ...]
    data: bytes

    @property
    def size(self) -> int:
        return prod(self.shape) * _BYTES.get(self.dtype, 1)


def of_safetensors(suffixes: Sequence[str] = (), words: Sequence[str] = ()) -> Mutate:
    """Of a header that contradicts the file, of bytes, and above all of tensors in a sound file.

    Args:
        suffixes: how keys end that mean something.
        words: names that mean something in the metadata.
    """

    def mutate(data: bytes, random: Random) -> bytes:
        length = int.from_bytes(data[:8], "little")
        try:
            header = parsed(data[8 : 8 + length].decode())
            tensors, metadata = _read(header, data[8 + length :])
        except (ValueError, TypeError, KeyError, RecursionError, AttributeError, OverflowError):
            return of_bytes(data, random)
        chance = random.random()
        if chance < 0.08:
            return of_bytes(data, random)
        if chance < 0.3:
            head = written(mutated(header, random, (*suffixes, *words, *_STRANGE)))
            return _file(head, data[8 + length :])
        for _ in range(random.choice((1, 1, 1, 2, 3))):
            if metadata and random.random() < 0.25:
                metadata = mutated(metadata, random, words)
                metadata = metadata if isinstance(metadata, Pairs) else Pairs()
            elif tensors:
                _change(tensors, suffixes, random)
        return _laid_out(tensors, metadata)

    return mutate


def safetensors_of(tensors: dict[str, tuple[str, list[int], bytes]], metadata: object) -> bytes:
    """A sound file of dtypes, shapes and bytes by key."""
    stored = [_Stored(key, dtype, tuple(s), data) for key, (dtype, s, data) in tensors.items()]
    return _laid_out(stored, metadata)


def _read(header: Pairs, data: bytes) -> tuple[list[_Stored], Pairs]:
    tensors, metadata = [], Pairs()
    for key, entry in header:
        if key == _METADATA:
            metadata = entry
            continue
        found = dict(entry)
        start, end = found["data_offsets"]
        shape = tuple(map(int, found["shape"]))
        tensors.append(_Stored(key, str(found["dtype"]), shape, data[start:end]))
    return tensors, metadata


def _laid_out(tensors: Sequence[_Stored], metadata: object) -> bytes:
    """As the safetensors library wants it: without gaps, in the order of the header."""
    header, data = Pairs([(_METADATA, metadata)] if metadata else []), b""
    for tensor in tensors:
        end = len(data) + (len(tensor.data) if 0 <= tensor.size <= _LARGEST else tensor.size)
        entry = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
        header.append((tensor.key, Pairs([*entry.items(), ("data_offsets", [len(data), end])])))
        data += tensor.data
    return _file(written(header), data)


def _file(header: str, data: bytes) -> bytes:
    head = header.encode("utf-8", "surrogatepass")
    head += b" " * (-len(head) % 8)
    return len(head).to_bytes(8, "little") + head + data


def _change(tensors: list[_Stored], suffixes: Sequence[str], random: Random) -> None:
    index = random.randrange(len(tensors))
    tensor, kind = tensors[index], random.randrange(8)
    if kind == 0:
        del tensors[index]
    elif kind == 1:
        key = _renamed(tensor.key, tensors, suffixes, random)
        tensors.insert(random.randrange(len(tensors) + 1), replace(tensor, key=key))
    elif kind == 2:
        tensors[index] = replace(tensor, key=_renamed(tensor.key, tensors, suffixes, random))
    elif kind in (3, 4):
        tensors[index] = _filled(replace(tensor, shape=_reshaped(tensor.shape, random)), random)
    elif kind == 5:
        dtype = random.choice((*_BYTES, *_STRANGE) if random.random() < 0.5 else ("F16", "F32"))
        tensors[index] = _filled(replace(tensor, dtype=dtype), random)
    elif kind == 6:
        other = random.choice(tensors)
        tensors[index] = replace(other, key=tensor.key)
    else:
        tensors[index] = _filled(replace(tensor, data=b""), random)


def _renamed(key: str, tensors: Sequence[_Stored], suffixes: Sequence[str], random: Random) -> str:
    """Another end of the same module, another module's same end, or nothing known."""
    module, dot, end = key.rpartition(".")
    for suffix in suffixes:
        if key.endswith(suffix):
            module, dot, end = key.removesuffix(suffix), "", suffix
    others = [tensor.key for tensor in tensors]
    kind = random.randrange(4)
    if kind == 0 and suffixes:
        return module + random.choice(suffixes)
    if kind == 1:
        return random.choice(others).rpartition(".")[0] + dot + end
    if kind == 2:
        return random.choice((*documents.TEXTS, key + key, key.upper(), f"{key}.weight", end))
    return f"{module}x{dot}{end}"


def _reshaped(shape: tuple[int, ...], random: Random) -> tuple[int, ...]:
    sides = list(shape)
    kind = random.randrange(6)
    if kind == 0:
        random.shuffle(sides)
    elif kind == 1 and sides:
        sides[random.randrange(len(sides))] = random.choice(_SIDES)
    elif kind == 2:
        sides.insert(random.randrange(len(sides) + 1), random.choice((1, 1, 2, 3, 0)))
    elif kind == 3 and sides:
        del sides[random.randrange(len(sides))]
    elif kind == 4:
        sides = [prod(sides)]
    elif sides:
        index = random.randrange(len(sides))
        sides[index] = max(sides[index] + random.choice((-1, 1)), 0)
    return tuple(sides)


def _filled(tensor: _Stored, random: Random) -> _Stored:
    """With as many bytes as it says, where they are few; else it claims what is not there."""
    if not 0 <= tensor.size <= _LARGEST:
        return tensor
    size = tensor.size
    if len(tensor.data) != size and tensor.data:
        return replace(tensor, data=(tensor.data * (size // len(tensor.data) + 1))[:size])
    number = random.choice(_FLOATS)
    formats = {"F32": "<f", "F64": "<d", "F16": "<e"}
    try:
        one = struct.pack(formats[tensor.dtype], number)
    except (KeyError, OverflowError, struct.error):
        one = random.choice((b"\0", b"\xff", b"\x7f\x80", b"\x01"))
    data = bytearray((one * (size // len(one) + 1))[:size])
    if size and random.random() < 0.5:  # one value alone
        data[len(one) :] = b"\0" * (size - len(one))
    return replace(tensor, data=bytes(data[:size]))


def of_gguf(data: bytes, random: Random) -> bytes:
    """The numbers of a header above all: counts, lengths, kinds, sides and offsets."""
    if random.random() < 0.15:
        return of_bytes(data, random)
    changed, fields = bytearray(data), _gguf_fields(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        at, width = random.choice(fields)
        old = int.from_bytes(changed[at : at + width], "little")
        small = (0, 1, 2, 3, 4, 7, 8, 9, 10, 12, 14, 30, 31, 32, 64, 255)
        number = random.choice((*small, old + 1, old - 1, old * 2, *documents.NUMBERS[6:16]))
        changed[at : at + width] = (int(number) % 2 ** (8 * width)).to_bytes(width, "little")
    return bytes(changed)


def _gguf_fields(data: bytes) -> list[tuple[int, int]]:
    """Place and width of each number, as far as the header can be followed."""
    fields = [(4, 4), (8, 8), (16, 8)]
    at = 24

    def number(width: int) -> int:
        nonlocal at
        fields.append((at, width))
        at += width
        if at > len(data):
            raise ValueError
        return int.from_bytes(data[at - width : at], "little")

    def text() -> None:
        nonlocal at
        at += number(8)

    def value(kind: int) -> None:
        if kind == 8:
            text()
        elif kind == 9:
            inner, count = number(4), number(8)
            for _ in range(count):
                value(inner)
        else:
            number({0: 1, 1: 1, 7: 1, 2: 2, 3: 2, 10: 8, 11: 8, 12: 8}.get(kind, 4))

    try:
        tensors, pairs = (int.from_bytes(data[i : i + 8], "little") for i in (8, 16))
        for _ in range(pairs):
            text()
            value(number(4))
        for _ in range(tensors):
            text()
            for _ in range(number(4)):
                number(8)
            number(4)
            number(8)
    except (ValueError, RecursionError):
        pass
    return fields[:2000]


__all__ = ["Mutate", "Raw", "json", "of_bytes", "of_gguf", "of_json", "of_safetensors", "of_text"]
