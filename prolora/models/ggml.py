"""GGUF: the tensors of ComfyUI-GGUF, and GGUF files for the command line.

The `gguf` package unpacks the blocks; ComfyUI-GGUF installs it. It is imported when such a weight
is read, so the pack does not depend on it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ProLoRAError
from .gguf_header import Header, read_header

_ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
_INSTEAD = "or use an fp16, bf16 or fp32 version of this model."


def is_ggml(tensor: object) -> bool:
    """Whether this is a tensor of ComfyUI-GGUF, which has ggml's type and the values' shape."""
    return hasattr(tensor, "tensor_type") and hasattr(tensor, "tensor_shape")


def from_ggml(tensor: Any, key: str) -> torch.Tensor:
    """The values of a tensor of ComfyUI-GGUF as an ordinary tensor, on the same device.

    Args:
        tensor: `tensor_type` is ggml's type and `tensor_shape` the shape of the values. Its data
            are the values (F32, F16) or rows of bytes.
        key: the weight's key, for messages.

    Raises:
        ProLoRAError: the gguf package is missing or does not know the type, or the number of bytes
            does not fit the shape.
    """
    ordinary: torch.Tensor = tensor.as_subclass(torch.Tensor).detach()
    if ordinary.is_floating_point():
        return ordinary
    kind, shape = tensor.tensor_type, tuple(tensor.tensor_shape)
    data = ordinary.contiguous().cpu().view(torch.uint8).numpy()
    return _dequantise(data, kind, shape, key).to(ordinary.device)


@dataclass(frozen=True)
class _StoredTensor:
    start: int
    size: int
    kind: Any
    shape: tuple[int, ...]


class GGUFWeights:
    """Weights of a GGUF file by the file's own keys, each read when it is asked for.

    Raises:
        ProLoRAError: the gguf package is missing, or the file is missing, damaged or not GGUF.
    """

    def __init__(self, path: Path) -> None:
        gguf = _package(f"{path.name} is a GGUF file")
        if not path.is_file():
            raise ProLoRAError(f"{path} does not exist. Is the name right?")
        self._path = path
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                header = read_header(file, size)
            self._places = {name: _place(gguf, header, name, size) for name in header.tensors}
        except (ValueError, KeyError, OSError) as error:
            raise ProLoRAError(
                f"{path.name} is not a readable GGUF file: {error}. It may be a download that "
                "broke off. Download it again."
            ) from error
        if header.foreign:
            raise ProLoRAError(
                f"{path.name} was written for machines of another byte order. Use another copy, "
                + _INSTEAD
            )

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places

    def shape(self, key: str) -> tuple[int, ...]:
        return self._places[key].shape

    def read(self, key: str) -> torch.Tensor:
        place = self._places[key]
        data = np.fromfile(self._path, np.uint8, place.size, offset=place.start)
        return _dequantise(data, place.kind, place.shape, key)


def _place(gguf: Any, header: Header, name: str, end: int) -> _StoredTensor:
    """Where a tensor lies in the file, with its shape in torch's order (ggml's is reversed).

    A convolution whose rows do not fill a block is flattened; a field has its original shape.

    Args:
        end: of the file.

    Raises:
        ValueError: it lies outside of the file, or its two shapes are not of one size.
        KeyError, ValueError: its type is unknown.
    """
    tensor = header.tensors[name]
    kind = gguf.GGMLQuantizationType(tensor.kind)
    block, bytes_ = gguf.GGML_QUANT_SIZES[kind]
    size = math.prod(tensor.sides) // block * bytes_
    if tensor.start + size > end:
        raise ValueError("it ends early, or its header claims more than it holds")
    shape = tensor.sides[::-1]
    original = header.numbers.get(_ORIGINAL_SHAPE + name, shape)
    sides = tuple(side for side in original if isinstance(side, int) and side >= 0)
    if len(sides) < len(original) or math.prod(sides) != math.prod(shape):
        raise ValueError(f"{name} has two shapes, {list(original)} and {list(shape)}")
    return _StoredTensor(tensor.start, size, kind, sides)


def _dequantise(data: np.ndarray, kind: Any, shape: tuple[int, ...], key: str) -> torch.Tensor:
    gguf = _package(f"The weight {key} is stored as GGUF ({getattr(kind, 'name', kind)})")
    try:
        block, size = gguf.GGML_QUANT_SIZES[kind]
        if data.size * block != math.prod(shape) * size:
            raise ValueError(f"{data.size} bytes are no {list(shape)}")
        rows = math.gcd(data.size // size, *shape[:1])  # the package takes a few rows at a time
        values = gguf.quants.dequantize(data.reshape(rows, -1), kind)
        return torch.from_numpy(np.asarray(values, np.float32)).reshape(shape)
    except (NotImplementedError, KeyError, ValueError) as error:
        raise ProLoRAError(
            f"The weight {key} is stored as GGUF ({getattr(kind, 'name', kind)}), which the gguf "
            f"package cannot unpack: {error}. Update the package (pip install -U gguf), {_INSTEAD}"
        ) from error


def _package(what: str) -> Any:
    try:
        import gguf
        import gguf.quants
    except ImportError as error:
        raise ProLoRAError(
            f"{what}, which the Python package gguf unpacks, and it is not installed. Install it "
            f"(pip install gguf), {_INSTEAD}"
        ) from error
    return gguf
