"""A layer as it is listened to: the rows of its input that its weight is multiplied with.

Whatever comes before the last dimension of a linear layer's input counts its positions; what a
convolution puts out at one place has one patch of its input.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from ..models.references import WeightRef


@dataclass(frozen=True)
class Place:
    """Where a module of a LoRA sits in a model that runs.

    Attributes:
        ref: its weight, or the part of it.
        layer: the layer whose weight that is: linear, or a convolution.
    """

    ref: WeightRef
    layer: Any

    @property
    def width(self) -> int:
        """N of the weight."""
        part = self.ref.part
        if part is not None and part.dim == 1:
            return part.length
        if is_linear(self.layer):
            return int(self.layer.in_features)  # a packed weight may have another shape
        return math.prod(self.layer.weight.shape[1:])

    def count(self, inputs: torch.Tensor) -> int:
        """How many positions an input has."""
        if is_convolution(self.layer):
            return inputs.shape[0] * math.prod(_output_lengths(self.layer, inputs))
        return inputs.numel() // inputs.shape[-1]

    def rows(self, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """What the weight is multiplied with at some positions, p x n, float32."""
        if is_convolution(self.layer):
            found = _patches(self.layer, inputs, positions)
        else:
            found = inputs.reshape(-1, inputs.shape[-1])[positions.to(inputs.device)]
        part = self.ref.part
        if part is not None and part.dim == 1:
            found = found.narrow(1, part.start, part.length)
        return found.detach().float()


def is_convolution(layer: object) -> bool:
    return isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))


def is_linear(layer: Any) -> bool:
    """Whether a layer is linear: a host's quantised one need not be an nn.Linear."""
    sides = (getattr(layer, name, None) for name in ("in_features", "out_features"))
    return all(isinstance(side, int) for side in sides) and len(layer.weight.shape) == 2


def why_not_heard(ref: WeightRef, layers: Mapping[str, nn.Module]) -> str:
    """Why a module's layer cannot be listened to; "" if it can."""
    layer: Any = layers.get(ref.key)
    if layer is None:
        return "its weight is no layer of its own that runs"
    if is_convolution(layer):
        if layer.groups != 1:
            return "it is a convolution in groups"
        is_of_inputs = ref.part is not None and ref.part.dim == 1
        return "it is of some inputs of a convolution" if is_of_inputs else ""
    if not is_linear(layer):
        return f"its layer is a {type(layer).__name__}, neither linear nor a convolution"
    return ""


@dataclass(frozen=True)
class _Side:
    """A side of an image under a convolution."""

    kernel: int
    stride: int
    dilation: int
    padding: int  # before and after together

    def output_length(self, length: int) -> int:
        return (length + self.padding - self.dilation * (self.kernel - 1) - 1) // self.stride + 1

    def window(self, index: int) -> slice:
        start = index * self.stride
        return slice(start, start + self.dilation * (self.kernel - 1) + 1, self.dilation)


def _sides(layer: Any) -> list[_Side]:
    # Before and after, the last side first, as torch.nn.functional.pad takes it.
    padding = layer._reversed_padding_repeated_twice
    both = [padding[at] + padding[at + 1] for at in range(0, len(padding), 2)][::-1]
    return list(map(_Side, layer.kernel_size, layer.stride, layer.dilation, both))


def _output_lengths(layer: Any, inputs: torch.Tensor) -> list[int]:
    lengths = zip(_sides(layer), inputs.shape[2:], strict=True)
    return [side.output_length(length) for side, length in lengths]


def _patches(layer: Any, inputs: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """The patches of a convolution's input at positions of its output: p x (in * kh * kw)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = nn.functional.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
    shape = (len(inputs), *_output_lengths(layer, inputs))
    rows = []
    for place in np.stack(np.unravel_index(positions.cpu().numpy(), shape), axis=1).tolist():
        windows = [side.window(at) for side, at in zip(_sides(layer), place[1:], strict=True)]
        patch = (place[0], slice(None), *windows)
        rows.append(padded[patch].flatten())
    return torch.stack(rows)
