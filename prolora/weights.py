"""Read-only access to a model's weights, one at a time.

A transfer needs two models, one weight of each at any moment. So a model is seen through `Weights`,
which reads a weight when it is asked for: from a file that is never loaded whole, or from tensors
that are already in memory (a state dict; a ComfyUI MODEL, which `nodes/host.py` adds).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch

from .errors import ProLoRAError
from .files import open_safetensors


class Weights(Protocol):
    """A model's weights by key."""

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, key: object) -> bool: ...

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a weight, without reading it."""

    def read(self, key: str) -> torch.Tensor:
        """The weight itself, of any floating dtype, on any device. Not to be written to."""


class StateDictWeights:
    """Weights that are in memory already (or mapped there from a file)."""

    def __init__(self, tensors: Mapping[str, torch.Tensor]) -> None:
        self._tensors = tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __contains__(self, key: object) -> bool:
        return key in self._tensors

    def shape(self, key: str) -> tuple[int, ...]:
        return tuple(self._tensors[key].shape)

    def read(self, key: str) -> torch.Tensor:
        _refuse_block_scales(self, key)
        return self._tensors[key]


class SafetensorsWeights:
    """Weights of a safetensors file, each read when it is asked for.

    The file is opened anew for every weight: the library maps it into memory, and only closing it
    gives the pages back. That keeps a transfer from a 7 GB checkpoint in a few hundred MB; opening
    costs about a millisecond.

    Raises:
        ProLoRAError: the file is missing, damaged, or no safetensors file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with open_safetensors(path) as handle:
            self._shapes = {k: tuple(handle.get_slice(k).get_shape()) for k in handle.keys()}

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __contains__(self, key: object) -> bool:
        return key in self._shapes

    def shape(self, key: str) -> tuple[int, ...]:
        return self._shapes[key]

    def read(self, key: str) -> torch.Tensor:
        _refuse_block_scales(self, key)
        with open_safetensors(self._path) as handle:
            tensor: torch.Tensor = handle.get_tensor(key)
        return tensor


def _refuse_block_scales(weights: Weights, key: str) -> None:
    """One scale for a whole weight changes no subspace and may be left out; many would."""
    for name in ("weight_scale", "scale_weight"):
        scale = f"{key.removesuffix('weight')}{name}"
        if scale in weights and torch.Size(weights.shape(scale)).numel() > 1:
            raise ProLoRAError(
                f"The weight {key} is quantised in blocks ({scale}), which ProLoRA cannot read "
                "from a file. Use an fp16, bf16 or fp32 version of this model, or load it in the "
                "graph and connect its MODEL."
            )


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
    """

    name: str
    architecture: str
    weights: Weights
    key_map: Mapping[str, WeightRef]

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
        if ref.part is not None:
            weight = weight.narrow(ref.part.dim, ref.part.start, ref.part.length)
        if ref.reorder is not None:
            weight = ref.reorder(weight)
        if not weight.is_floating_point():
            raise ProLoRAError(
                f"The weight {ref} of {self.name} is stored as {weight.dtype}: a quantised form "
                "that ProLoRA cannot read. Use an fp16, bf16, fp32 or fp8 version of this model."
            )
        weight = weight.to(device, dtype)
        if not torch.isfinite(weight).all():
            raise ProLoRAError(
                f"The weight {ref} of {self.name}, shape {list(weight.shape)}, holds NaN or "
                "infinity: the file is damaged or was merged badly. Use another copy of it."
            )
        return weight
