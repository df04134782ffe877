"""A moved LoRA on a model of these."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from benchmarks.evidence.patched import patched
from demo.training.network import network_of
from prolora.adapters import Adapter

from .models import model


class Worn:
    """Adapters of any family, to be put on a model by `on`, as the demo's LoRA is."""

    def __init__(self, which: str, adapters: Sequence[Adapter]) -> None:
        self._model, self._adapters = model(which), adapters
        self._changed: dict[str, torch.Tensor] | None = None  # weights; they are put on often

    @contextmanager
    def on(self, running: nn.Module) -> Iterator[None]:
        """Let the model compute with them inside the block."""
        layers = network_of(running).layers
        own = {key: layer.weight.data for key, layer in layers.items()}
        if self._changed is None:
            with patched(layers, self._model, self._adapters):
                now = {key: layer.weight.data for key, layer in layers.items()}
            self._changed = {key: now[key] for key in own if now[key] is not own[key]}
        try:
            for key, weight in self._changed.items():
                layers[key].weight.data = weight
            yield
        finally:
            for key in self._changed:
                layers[key].weight.data = own[key]
