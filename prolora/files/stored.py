"""Tensors as a file stores them: where they lie, and read into memory of their own.

They are not mapped. A mapped page is read whenever it is touched, and where that fails, because
another program has cut the file or its drive has gone away, the system ends the process with all
that it was doing (SIGBUS). No look at the file beforehand prevents that: it may be cut right after.
Reading has the same bytes, and fails with an error.
"""

from collections.abc import Callable, Mapping
from typing import IO, Any

import torch
from torch.utils._pytree import tree_map_only

from .header import BITS, StoredTensor

_PIECE = 2**26  # bytes that are asked for at once: a system may refuse 2**31

_DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "F32": torch.float32,
    "F64": torch.float64,
    "C64": torch.complex64,
}
# A torch that is older than ComfyUI's newest has not all of them.
_NEWER = {
    "U16": "uint16",
    "U32": "uint32",
    "U64": "uint64",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F4": "float4_e2m1fn_x2",  # two numbers in a byte
}
_DTYPES |= {code: getattr(torch, name) for code, name in _NEWER.items() if hasattr(torch, name)}
_KINDS = {dtype: kind for kind, dtype in _DTYPES.items()}
_IN_PAIRS = ("F4",)


def dtype_of(kind: str) -> torch.dtype | None:
    """The dtype of a kind of number; None if this torch has none."""
    return _DTYPES.get(kind)


def shape_of(place: StoredTensor) -> tuple[int, ...]:
    """The shape that torch has for a tensor."""
    if place.kind in _IN_PAIRS and place.shape:
        return *place.shape[:-1], place.shape[-1] // 2
    return place.shape


def in_order(tensors: Mapping[str, torch.Tensor]) -> dict[str, StoredTensor]:
    """The places of tensors in a file, one after the other as the library has them.

    Their bytes are counted from the first tensor's on.
    """
    ranks = {kind: rank for rank, kind in enumerate(BITS)}
    kinds = {name: _KINDS[tensor.dtype] for name, tensor in tensors.items()}
    places, start = {}, 0
    for name in sorted(tensors, key=lambda name: (-ranks[kinds[name]], name)):
        shape, end = tuple(tensors[name].shape), start + tensors[name].nbytes
        if kinds[name] in _IN_PAIRS and shape:
            shape = (*shape[:-1], 2 * shape[-1])
        places[name] = StoredTensor(kinds[name], shape, start, end)
        start = end
    return places


def read_tensor(file: IO[bytes], place: StoredTensor) -> torch.Tensor:
    """A tensor of an open file, of a kind that torch has.

    Raises:
        EOFError: the file ends before it does.
        OSError: it cannot be read.
    """
    bytes_ = torch.empty(place.end - place.start, dtype=torch.uint8)
    file.seek(place.start)
    unread = bytes_.numpy().data
    while unread:
        count = file.readinto(unread[:_PIECE])  # type: ignore[attr-defined]
        if not count:
            raise EOFError
        unread = unread[count:]
    return bytes_.view(_DTYPES[place.kind]).reshape(shape_of(place))


class Unread(torch.Tensor):
    """A tensor that is read whenever its values are asked for, which its shape and dtype are not.

    For a host that looks at the shapes of a whole file, and at the values of a vector or two.
    """

    read: Callable[[], torch.Tensor]

    @staticmethod
    def __new__(
        cls, shape: tuple[int, ...], dtype: torch.dtype, read: Callable[[], torch.Tensor]
    ) -> "Unread":
        made: Unread = torch.Tensor._make_wrapper_subclass(cls, shape, dtype=dtype)
        made.read = read
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> torch.Tensor:
        args, kwargs = tree_map_only(cls, lambda tensor: tensor.read(), (args, kwargs or {}))
        found: torch.Tensor = func(*args, **kwargs)
        return found
