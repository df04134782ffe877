"""Blocks that keep only what they were given: for the gradient they are computed again.

Gradient checkpointing (Chen et al., arXiv 1604.06174): the memory of one block at a time instead of
that of all. Unlike torch's own, a block may write over what it was given, as some models of ComfyUI
do to save memory: it gets a copy, both times.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_flatten, tree_unflatten

Again = Callable[[], AbstractContextManager[object]]


@contextmanager
def forgetful(blocks: Sequence[nn.Module], again: Again) -> Iterator[None]:
    """Inside, the blocks forget. Outside of gradients they run as ever.

    Args:
        again: entered where a block is computed again.
    """
    before = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.forward = _remembering_inputs(block.forward, again)
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            vars(block).pop("forward", None)
            if forward is not None:
                block.forward = forward


def _remembering_inputs(forward: Callable[..., Any], again: Again) -> Callable[..., Any]:
    def run(*args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        call = _Call(forward, again, args, kwargs)
        anchor = torch.empty(0, requires_grad=True)  # the factors inside are no arguments
        forget: Any = _Forgotten.apply
        return call.with_outputs(forget(call, anchor, *call.tensors))

    return run


class _Call:
    """A call of a block: its arguments, tensors apart from the rest."""

    def __init__(
        self, forward: Callable[..., Any], again: Again, args: Any, kwargs: dict[str, Any]
    ) -> None:
        self._forward, self.again = forward, again
        self._leaves, self._form = tree_flatten((args, kwargs))
        self._places = [i for i, leaf in enumerate(self._leaves) if isinstance(leaf, torch.Tensor)]
        self.tensors = [self._leaves[place] for place in self._places]
        for place in self._places:
            self._leaves[place] = None

    def run(self, tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors that come out."""
        leaves = list(self._leaves)
        for place, tensor in zip(self._places, tensors, strict=True):
            leaves[place] = tensor.clone()
        args, kwargs = tree_unflatten(leaves, self._form)
        self._out, self._out_form = tree_flatten(self._forward(*args, **kwargs))
        return [leaf for leaf in self._out if isinstance(leaf, torch.Tensor)]

    def with_outputs(self, tensors: Sequence[torch.Tensor]) -> Any:
        """What the block returned, with these tensors."""
        found = iter(tensors)
        leaves = [next(found) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._out]
        self._out = []
        return tree_unflatten(leaves, self._out_form)


class _Forgotten(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, call: _Call, anchor: torch.Tensor, *tensors: torch.Tensor) -> Any:
        ctx.call = call
        ctx.save_for_backward(*tensors)
        call.tensors = []
        with torch.no_grad():
            return tuple(call.run(tensors))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        with torch.inference_mode(False), torch.enable_grad():
            given = [t.detach().requires_grad_(t.is_floating_point()) for t in ctx.saved_tensors]
            with ctx.call.again():
                found = ctx.call.run(given)
            wanted = [out.requires_grad for out in found]
            torch.autograd.backward(
                [out for out, counts in zip(found, wanted, strict=True) if counts],
                [gradient for gradient, counts in zip(gradients, wanted, strict=True) if counts],
            )
        return None, None, *(tensor.grad for tensor in given)
