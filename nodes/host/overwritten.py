"""What a model writes over while a gradient still needs it is copied, and nothing else.

The host's Flux, HunyuanVideo and LTX-Video add to their activations in place, to save memory; torch
refuses gradients through that. Here every tensor that is kept for the gradient is known by its
memory, and every operation that writes into memory is seen before it runs.
"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_PLAIN = (torch.Tensor, torch.nn.Parameter)


@contextmanager
def overwritten_kept() -> Iterator[None]:
    """Inside, a model may write over its activations; gradients afterwards see what was there."""
    if not torch.is_grad_enabled():
        yield
        return
    watch = _Watch()
    with torch.autograd.graph.saved_tensors_hooks(watch.keep, _Kept.given_back), watch:
        yield


class _Kept:
    """A tensor that is kept for the gradient."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def given_back(self) -> torch.Tensor:
        return self.tensor


class _Watch(TorchDispatchMode):
    """Sees what is kept and what is written."""

    def __init__(self) -> None:
        super().__init__()
        self._by_memory: dict[int, WeakSet[_Kept]] = defaultdict(WeakSet)

    def keep(self, tensor: torch.Tensor) -> _Kept:
        kept = _Kept(tensor.detach())
        memory = _memory(tensor)
        if memory:
            self._by_memory[memory].add(kept)
        return kept

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            for place, declared in enumerate(func._schema.arguments):
                if declared.alias_info is not None and declared.alias_info.is_write:
                    given = args[place] if place < len(args) else kwargs.get(declared.name)
                    self._save(given)
        return func(*args, **kwargs)

    def _save(self, written: Any) -> None:
        for tensor in written if isinstance(written, list | tuple) else [written]:
            memory = _memory(tensor) if isinstance(tensor, torch.Tensor) else 0
            copies: dict[Any, torch.Tensor] = {}
            for kept in self._by_memory.pop(memory, ()):
                old = kept.tensor
                view = old.storage_offset(), old.shape, old.stride()
                if view not in copies:
                    copies[view] = old.clone()
                kept.tensor = copies[view]


def _memory(tensor: torch.Tensor) -> int:
    """Where its values lie; 0 for a quantised weight, which no model writes into."""
    return tensor.untyped_storage().data_ptr() if type(tensor) in _PLAIN else 0
