"""Read-only access to a model's weights, one at a time.

A transfer needs one weight of each of two models at a time. `Weights` reads a weight when it is
asked for: from a file that is never loaded whole, or from tensors that are in memory already (a
state dict here, a ComfyUI MODEL in `nodes/host/`).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from ..files.safetensors import SafetensorsFile, open_safetensors
from .quantised import QUANT_MARK, marks_in, refuse_files_without_weights, shape_of, values_of


class Weights(Protocol):
    """A model's weights by key."""

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, key: object) -> bool: ...

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a weight, without reading it."""

    def read(self, key: str) -> torch.Tensor:
        """The weight, of any dtype, on any device. It must not be written to."""


class StoredWeights(ABC):
    """Stored weights, dequantised when they are read (see quantised.py)."""

    @abstractmethod
    def __iter__(self) -> Iterator[str]: ...

    @abstractmethod
    def __contains__(self, key: object) -> bool: ...

    @abstractmethod
    def stored_shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor as it is stored, without reading it."""

    @abstractmethod
    def stored(self, key: str) -> torch.Tensor:
        """A tensor as it is stored."""

    def place(self, key: str) -> str:
        """Where a weight is, for a message: " of FILE", or nothing."""
        return ""

    def shape(self, key: str) -> tuple[int, ...]:
        return shape_of(self, key)

    def read(self, key: str) -> torch.Tensor:
        return values_of(self, key)


class StateDictWeights(StoredWeights):
    """Weights of a state dict, whose tensors are in memory."""

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
class _Place:
    file: SafetensorsFile
    key: str
    name: str  # of the file


class SafetensorsWeights(StoredWeights):
    """Weights of one or several safetensors files, each read when it is asked for.

    The file is opened for every weight and closed again, so that it may be moved meanwhile, and a
    transfer from a 7 GB checkpoint needs a few hundred MB.

    Args:
        files: the file; or several, each with the prefix that its keys get.

    Raises:
        ProLoRAError: a file is missing, damaged or not safetensors, or it is quantised in a form
            that has no weights.
    """

    def __init__(self, files: Path | Mapping[Path, str]) -> None:
        self._places: dict[str, _Place] = {}
        self._marks: dict[str, torch.Tensor] = {}
        for path, prefix in (files if isinstance(files, Mapping) else {files: ""}).items():
            self._add(path, prefix)

    def _add(self, path: Path, prefix: str) -> None:
        file = open_safetensors(path)
        refuse_files_without_weights(path.name, file.keys())
        marks = file.get_tensors([key for key in file.keys() if key.endswith(f".{QUANT_MARK}")])
        marks |= marks_in(file.metadata() or {}, path.name)
        self._places |= {prefix + key: _Place(file, key, path.name) for key in file.keys()}
        self._marks |= {prefix + key: mark for key, mark in marks.items()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __contains__(self, key: object) -> bool:
        return key in self._places or key in self._marks

    def stored_shape(self, key: str) -> tuple[int, ...]:
        place = self._places[key]
        return place.file.shape(place.key)

    def stored(self, key: str) -> torch.Tensor:
        if key in self._marks:
            return self._marks[key]
        place = self._places[key]
        return place.file.get_tensor(place.key)

    def place(self, key: str) -> str:
        return f" of {self._places[key].name}"
