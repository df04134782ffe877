"""DoRA and FouRA as they are trained; the LoRA is the demo's.

Each computes beside the frozen layers of a model, and writes its file as the pack reads it.
"""

from functools import cache

import numpy as np
import torch
from scipy.fft import dct
from torch import nn
from torch.nn.functional import linear

from demo.training.model import Lora


class Dora(Lora):
    """m * (W + scale * up @ down) / ||W + scale * up @ down||, a norm an output, kept constant in
    the gradient (Liu et al., arXiv 2402.09353, Eq. 5 and section 4.3).
    """

    def __init__(self, model: nn.Module, rank: int) -> None:
        super().__init__(model, rank, alpha=float(rank))
        self.magnitude = nn.ParameterDict(
            {key: nn.Parameter(_norms(layer.weight)) for key, layer in self._layers(model)}
        )

    def effect(
        self, key: str, layer: nn.Linear, inputs: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        weight = layer.weight + self.scale * self.up[key] @ self.down[key]
        size = self.magnitude[key] / _norms(weight).detach()
        return linear(inputs, size * weight, layer.bias)

    def tensors(self, key: str) -> dict[str, torch.Tensor]:
        return super().tensors(key) | {"dora_scale": self.magnitude[key]}


class Foura(Lora):
    """F^-1(up * gate * down * F(x)) by the orthonormal DCT over features, with a gate that does not
    depend on the input (Borse et al., arXiv 2406.08798; docs/foura.md).
    """

    OPEN = 3.0  # the gate's logits begin here: nearly open

    def __init__(self, model: nn.Module, rank: int) -> None:
        super().__init__(model, rank, alpha=float(rank))
        self.gate = nn.ParameterDict(
            {key: nn.Parameter(torch.full((rank,), self.OPEN)) for key in self.down}
        )

    def effect(
        self, key: str, layer: nn.Linear, inputs: torch.Tensor, output: torch.Tensor
    ) -> torch.Tensor:
        gate = self.scale * self.gate[key].sigmoid()
        read = inputs @ (self.down[key] @ _dct(layer.in_features)).T
        return output + (gate * read) @ (self.up[key].T @ _dct(layer.out_features))

    def tensors(self, key: str) -> dict[str, torch.Tensor]:
        return {
            "foura_down.weight": self.down[key],
            "foura_up.weight": self.up[key],
            "foura_gate": self.gate[key].sigmoid(),
            "foura_transform": torch.tensor(1.0),
        }


@cache
def _dct(size: int) -> torch.Tensor:
    """The orthonormal DCT-II: row k is frequency k."""
    return torch.from_numpy(dct(np.eye(size), norm="ortho", axis=0)).float()


def _norms(weight: torch.Tensor) -> torch.Tensor:
    """Of the rows, out x 1."""
    return weight.norm(dim=1, keepdim=True)
