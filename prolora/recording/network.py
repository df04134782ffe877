"""A model that runs, as recording and refinement see it: torch modules and two functions.

Whoever has one makes a Network of it: `nodes/host/` of a MODEL of ComfyUI, a script of a plain
torch module. The core runs it and listens to its layers; it never builds or loads one.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import nn

# What a prompt may hold beside tensors, as ComfyUI's conditioning does (sizes, crops, guidance).
Value = str | int | float | bool | None


# (clean latents, noise, sigmas) -> noised latents, B x ...
Noised = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Prompt:
    """One prompt, as the text encoder left it.

    Attributes:
        tensors: by the names that the network's `denoise` knows, each of batch 1.
        values: plain values beside them.
        text: what was encoded; "" if it is not known.
    """

    tensors: Mapping[str, torch.Tensor]
    values: Mapping[str, Value] = field(default_factory=dict)
    text: str = ""


@dataclass(frozen=True)
class Network:
    """A diffusion model that runs.

    Attributes:
        root: the model.
        layers: the key of a weight, as the core's Model has it -> the layer that it belongs to.
        denoise: (noised latents, B x ..., in the model's space; their sigmas, B; as many prompts)
            -> the model's prediction of the clean latents (x0), B x ..., float32, without
            guidance. With gradients if they are enabled.
        output_scale: sigmas, B -> |d denoised / d output|, B: how far the prediction moves with
            what the network itself puts out (sigma for a model of noise or velocity).
        noised: (clean latents, noise, sigmas) -> noised latents, B x ...
        again: entered where a block is computed again for its gradient, apart from `denoise`.
    """

    root: nn.Module
    layers: Mapping[str, nn.Module]
    denoise: Callable[[torch.Tensor, torch.Tensor, Sequence[Prompt]], torch.Tensor]
    output_scale: Callable[[torch.Tensor], torch.Tensor]
    noised: Noised
    again: Callable[[], AbstractContextManager[object]] = nullcontext


@dataclass(frozen=True)
class TextNetwork:
    """A text encoder that runs.

    Attributes:
        layers: see Network.
        encode: runs it on a text; what comes out does not matter here.
    """

    layers: Mapping[str, nn.Module]
    encode: Callable[[str], object]
