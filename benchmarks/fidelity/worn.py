"""A moved LoRA on a model of these."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from torch import nn

from benchmarks.evidence.patched import patched
from demo.training.network import network_of
from prolora.adapters import Adapter

from .models import model


@dataclass(frozen=True)
class Worn:
    """Adapters of any family, to be put on a model by `on`, as the demo's LoRA is."""

    which: str
    adapters: Sequence[Adapter]

    def on(self, running: nn.Module) -> AbstractContextManager[None]:
        """Let the model compute with them inside the block."""
        return patched(network_of(running).layers, model(self.which), self.adapters)
