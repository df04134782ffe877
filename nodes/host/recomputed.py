"""Layers whose weight is cast or moved at use: for the gradient they compute again, not keep it.

Otherwise a computation with gradients keeps every cast weight until its end: the whole model, on
the device and in the wider type. A later host also casts into one buffer after the other, so a kept
weight would be overwritten by the next layer's.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

Forward = Callable[..., torch.Tensor]


@contextmanager
def recomputed(layers: Iterable[nn.Module]) -> Iterator[None]:
    """Inside, the layers keep only what they were given. Their hooks are called once, as always."""
    changed = [layer for layer in layers if not isinstance(vars(layer).get("forward"), _Recomputed)]
    before = {layer: vars(layer).get("forward") for layer in changed}
    try:
        for layer in changed:
            layer.forward = _Recomputed(layer.forward)
        yield
    finally:
        for layer, forward in before.items():
            vars(layer).pop("forward", None)
            if forward is not None:
                layer.forward = forward


class _Recomputed:
    """A layer's forward, which keeps nothing for the gradient but its first argument."""

    def __init__(self, forward: Forward) -> None:
        self._forward = forward

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not (torch.is_grad_enabled() and isinstance(x, torch.Tensor) and x.requires_grad):
            return self._forward(x, *args, **kwargs)
        return _Again.apply(x, lambda given: self._forward(given, *args, **kwargs))


class _Again(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, layer: Forward) -> torch.Tensor:
        ctx.layer = layer
        ctx.save_for_backward(x)
        with torch.no_grad():
            return layer(x)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        (x,) = ctx.saved_tensors
        with torch.inference_mode(False), torch.enable_grad():
            given = x.detach().requires_grad_()
            (found,) = torch.autograd.grad(ctx.layer(given), given, gradient)
        return found, None
