"""Read-only access to a model's weights, one at a time.

A transfer needs two models, one weight of each at any moment. So a model is seen through `Weights`,
which reads a weight when it is asked for: from a file that is never loaded whole, or from tensors
that are already in memory (a state dict; a ComfyUI MODEL, which `nodes/host.py` adds).
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

import torch

from .errors import ProLoRAError
from .files import open_safetensors
from .module_names import by_plain_name, plain
from .quantised import MARK, marks_in, refuse_files_without_weights, shape_of, values_of


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
class _Place:
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
        self._places: dict[str, _Place] = {}
        self._marks: dict[str, torch.Tensor] = {}
        for path, prefix in (files if isinstance(files, Mapping) else {files: ""}).items():
            self._add(path, prefix)

    def _add(self, path: Path, prefix: str) -> None:
        with open_safetensors(path) as handle:
            keys = list(handle.keys())
            refuse_files_without_weights(path.name, keys)
            marks = {key: handle.get_tensor(key) for key in keys if key.endswith(f".{MARK}")}
            for key in keys:
                shape = tuple(handle.get_slice(key).get_shape())
                self._places[prefix + key] = _Place(path, key, shape)
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


@dataclass(frozen=True)
class Slice:
    """A part of a fused weight, as q, k and v lie in one qkv weight."""

    dim: int
    start: int
    length: int


@dataclass(frozen=True)
class WeightRef:
    """Where the weight of a LoRA module lies.

    Attributes:
        key: the weight's own key.
        part: the slice of it, for a fused weight.
        reorder: brings its rows into the order that the LoRA was trained in, where a host's model
            stores them in another (diffusers swaps scale and shift).
    """

    key: str
    part: Slice | None = None
    reorder: Callable[[torch.Tensor], torch.Tensor] | None = None

    def __str__(self) -> str:
        if self.part is None:
            return self.key
        end = self.part.start + self.part.length
        return f"{self.key}[{':, ' * self.part.dim}{self.part.start}:{end}]"


@dataclass(frozen=True)
class Model:
    """A model as a transfer sees it.

    Attributes:
        name: what to call it in reports, as a file name.
        architecture: its family, as "SDXL"; the host's name for it where there is a host.
        weights: its weights.
        key_map: from the module names that LoRA files use to the weight each one means.
        hint: what to say of a LoRA none of whose names is in it.
        paths: weight -> its module, for weights whose own keys are not the architecture's usual
            ones (see module_tree.py).
    """

    name: str
    architecture: str
    weights: Weights
    key_map: Mapping[str, WeightRef]
    hint: str = ""
    paths: Mapping[str, str] = field(default_factory=dict)

    def find(self, name: str) -> WeightRef | None:
        """The weight that a LoRA's module means: by the key map, else by another spelling of it.

        None for a name that is unknown or could mean two weights.
        """
        return self.key_map.get(name) or self._aliases.get(plain(name))

    def names_of(self, key: str) -> Sequence[tuple[str, WeightRef]]:
        """The names in the key map for a weight and for parts of it, with what each means."""
        return self._names.get(key, ())

    @cached_property
    def _names(self) -> dict[str, list[tuple[str, WeightRef]]]:
        names: dict[str, list[tuple[str, WeightRef]]] = defaultdict(list)
        for name, ref in self.key_map.items():
            names[ref.key].append((name, ref))
        return dict(names)

    @cached_property
    def _aliases(self) -> dict[str, WeightRef]:
        return by_plain_name(self.key_map)

    def shape(self, ref: WeightRef) -> tuple[int, ...]:
        """The shape of a referenced weight (of its slice), without reading it."""
        shape = list(self.weights.shape(ref.key))
        if ref.part is not None:
            shape[ref.part.dim] = ref.part.length
        return tuple(shape)

    def weight(self, ref: WeightRef, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Reads a weight in its own shape.

        Raises:
            ProLoRAError: it is stored in a form that is no floating-point tensor, or it holds NaN
                or infinity.
        """
        weight = self.weights.read(ref.key)
        if not weight.is_floating_point():
            raise ProLoRAError(
                f"The weight {ref} of {self.name} is stored as {weight.dtype}: a quantised form "
                "that ProLoRA cannot read. Use an fp16, bf16, fp32 or fp8 version of this model, "
                "or load it in the graph and connect its MODEL."
            )
        if ref.part is not None:
            weight = weight.narrow(ref.part.dim, ref.part.start, ref.part.length)
        if ref.reorder is not None:
            weight = ref.reorder(weight)
        weight = weight.to(device, dtype)
        if not torch.isfinite(weight).all():
            raise ProLoRAError(
                f"The weight {ref} of {self.name}, shape {list(weight.shape)}, holds NaN or "
                "infinity: the file is damaged or was merged badly. Use another copy of it."
            )
        return weight
