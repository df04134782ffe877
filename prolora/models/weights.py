"""Read-only access to a model's weights, one at a time.

A transfer needs two models, one weight of each at any moment. So a model is seen through `Weights`,
which reads a weight when it is asked for: from a file that is never loaded whole, or from tensors
that are already in memory (a state dict; a ComfyUI MODEL, which `nodes/host/` adds).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ..files.safetensors import open_safetensors
from .quantised import QUANT_MARK, marks_in, refuse_files_without_weights, shape_of, values_of


class Weights(Protocol):
    """A model's weights by key."""

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, key: object) -> bool: ...

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a weight, without reading it."""

    def read(self, key: str) -> torch.Tensor:
        """The weight itself, of any floating dtype, on any device. Not to be written to."""


class StoredWeights(ABC):
    """Weights as they are stored, dequantised when they are read (see quantised.py)."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]: ...

    @abstractmethod
    def __contains__(self, key: object) -> bool: ...

    @abstractmethod
    def stored_shape(self, key: str) -> tuple[int, ...]: ...

    @abstractmethod
    def stored(self, key: str) -> torch.Tensor: ...

    def shape(self, key: str) -> tuple[int, ...]:
        return shape_of(self, key)

    def read(self, key: str) -> torch.Tensor:
        return values_of(self, key)


class StateDictWeights(StoredWeights):
    """Weights that are in memory already (or mapped there from a file)."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def stored_shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensors[key].shape)

    def stored(self, key: str) -> torch.Tensor:
        return self._tensors[key]


@dataclass(frozen=True)
class _StoredTensor:
    path: Path
    key: str
    shape: tuple[int, ...]


class SafetensorsWeights(StoredWeights):
    """Weights of one safetensors file or of several, each read when it is asked for.

    A file is opened anew for every weight: it is mapped into memory, and only letting go of that
    gives the pages back. That keeps a transfer from a 7 GB checkpoint in a few hundred MB; opening
    costs about a millisecond.

    Args:
        files: the file; or several, each with what its keys begin with here.

    Raises:
        ProLoRAError: a file is missing, damaged, or no safetensors file; or it is quantised in a
            way that leaves no weights.
    """

    def __init__(self, files: Path | Mapping[Path, str]) -> None:
        self._places: dict[str, _StoredTensor] = {}
        self._marks: dict[str, torch.Tensor] = {}
        for path, prefix in (files if isinstance(files, Mapping) else {files: ""}).items():
            self._add(path, prefix)

    def _add(self, path: Path, prefix: str) -> None:
        with open_safetensors(path) as handle:
            keys = list(handle.keys())
            refuse_files_without_weights(path.name, keys)
            marks = {key: handle.get_tensor(key) for key in keys if key.endswith(f".{QUANT_MARK}")}
            for key in keys:
                shape = tuple(handle.get_slice(key).get_shape())
                self._places[prefix + key] = _StoredTensor(path, key, shape)
            marks |= marks_in(handle.metadata() or {})
        self._marks |= {prefix + key: mark for key, mark in marks.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places or key in self._marks

    def stored_shape(self, key: str) -> tuple[int, ...]:
        return self._places[key].shape

    def stored(self, key: str) -> torch.Tensor:
        if key in self._marks:
            return self._marks[key]
        place = self._places[key]
        with open_safetensors(place.path) as handle:
            tensor: torch.Tensor = handle.get_tensor(place.key)
        return tensor
