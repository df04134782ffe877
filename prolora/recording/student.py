"""A LoRA whose factors can be trained, on the layers of a model that runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..adapters import Adapter, LoraAdapter
from ..models.model import Model
from ..models.module_names import is_text_encoder
from ..models.references import WeightRef
from .layers import is_convolution, why_not_heard


@dataclass(frozen=True)
class Free:
    """A module whose factors are free.

    Attributes:
        adapter: what it was.
        ref: its weight in the target.
        layer: the layer of that weight.
        up, down: m x r and r x ..., in the layer's layout; float32, with gradients.
    """

    adapter: LoraAdapter
    ref: WeightRef
    layer: Any
    up: nn.Parameter
    down: nn.Parameter

    def answer(self, inputs: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
        """The layer's output with the module's part added."""
        part, inputs = self.ref.part, inputs.float()
        # A layer may run elsewhere than where its weight is kept.
        up, down = self.up.to(inputs.device), self.down.to(inputs.device)
        if is_convolution(self.layer):
            read = self._convolved(inputs, down)
            added = torch.einsum("mr,br...->bm...", up, read)
            channels = 1
        else:
            if part is not None and part.dim == 1:
                inputs = inputs.narrow(-1, part.start, part.length)
            added = inputs @ down.T @ up.T
            channels = output.ndim - 1
        added = added.to(output.dtype)
        if part is None or part.dim == 1:
            return output + added
        rows = [part.start, part.length, output.shape[channels] - part.start - part.length]
        before, own, after = torch.split(output, rows, dim=channels)
        return torch.cat([before, own + added, after], dim=channels)

    def _convolved(self, inputs: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        layer = self.layer
        convolve = (nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d)[down.ndim - 3]
        if layer.padding_mode != "zeros":
            sides = layer._reversed_padding_repeated_twice
            inputs = nn.functional.pad(inputs, sides, mode=layer.padding_mode)
            return convolve(inputs, down, None, layer.stride, 0, layer.dilation)
        return convolve(inputs, down, None, layer.stride, layer.padding, layer.dilation)

    def made(self) -> LoraAdapter:
        """The module with the factors that it has now."""
        up, down = self.up.detach().cpu(), self.down.detach().cpu()
        rows = self.ref.reordered(up)
        shape = (*rows.shape, *(1,) * (down.ndim - 2))
        rank = float(down.shape[0])
        name, reshape = self.adapter.name, self.adapter.reshape
        return LoraAdapter(name, rows.reshape(shape).clone(), down.clone(), rank, reshape)


def left_out(
    adapters: Sequence[Adapter], target: Model, layers: Mapping[str, nn.Module]
) -> dict[str, str]:
    """The modules whose factors cannot be trained, and why.

    Args:
        target: by whose names the modules are called.
        layers: see Network.
    """
    why = {adapter.name: _why_not(adapter, target, layers) for adapter in adapters}
    return {name: reason for name, reason in why.items() if reason}


def _why_not(adapter: Adapter, target: Model, layers: Mapping[str, nn.Module]) -> str:
    ref = target.resolve(adapter.name)
    if is_text_encoder(adapter.name):
        return "it is of the text encoder, whose answers were not recorded"
    if ref is None:
        return f"not in the target {target.name}"
    if not isinstance(adapter, LoraAdapter):
        return f"a {adapter.family} is not refined"
    return "its weight is padded" if adapter.reshape else why_not_heard(ref, layers)


def free(adapters: Sequence[Adapter], target: Model, layers: Mapping[str, nn.Module]) -> list[Free]:
    """The modules whose factors can be trained; see left_out."""
    why = left_out(adapters, target, layers)
    found = []
    for adapter in adapters:
        ref = target.resolve(adapter.name)
        if adapter.name not in why and ref is not None and isinstance(adapter, LoraAdapter):
            found.append(_free(adapter, ref, layers[ref.key]))
    return found


def _free(adapter: LoraAdapter, ref: WeightRef, layer: Any) -> Free:
    device = layer.weight.device
    factors = adapter.update(torch.zeros(0)).balanced()
    down = (
        factors.down.reshape(-1, *layer.weight.shape[1:]) if is_convolution(layer) else factors.down
    )
    up = ref.reordered(factors.up)
    return Free(
        adapter,
        ref,
        layer,
        nn.Parameter(up.to(device).clone()),
        nn.Parameter(down.to(device).clone()),
    )


@contextmanager
def attached(modules: Sequence[Free]) -> Iterator[set[str]]:
    """Lets the model compute with the modules; the hooks are gone at the end.

    Yields:
        The names of the modules whose layers ran, growing.
    """
    ran: set[str] = set()

    def hook(
        module: Free,
    ) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], torch.Tensor]:
        def answer(
            _: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor
        ) -> torch.Tensor:
            ran.add(module.adapter.name)
            return module.answer(inputs[0], output)

        return answer

    handles = [module.layer.register_forward_hook(hook(module)) for module in modules]
    try:
        yield ran
    finally:
        for handle in handles:
            handle.remove()


def blocks_of(root: nn.Module, modules: Sequence[Free]) -> list[nn.Module]:
    """The outermost modules of a model that run as a whole and hold a free one."""
    layers = {id(module.layer) for module in modules}
    return [
        block for block in _outermost(root) if any(id(layer) in layers for layer in block.modules())
    ]


def _outermost(root: nn.Module) -> Iterator[nn.Module]:
    for child in root.children():
        # A list does not run, and a UNet runs the members of its sequences one by one.
        if isinstance(child, (nn.ModuleList, nn.ModuleDict, nn.Sequential)):
            yield from _outermost(child)
        else:
            yield child
