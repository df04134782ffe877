"""Runs a model on one example after the other, and hands out what its layers are given.

One example at a time, so that all that a layer gets belongs to it. Where a layer runs more than
once for an example, the first time counts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from ..progress import Progress
from .layers import Place


@dataclass(frozen=True)
class Examples:
    """What a model runs on.

    Attributes:
        count: how many.
        run: runs the model on one of them.
        of: what runs, for progress.
    """

    count: int
    run: Callable[[int], object]
    of: str


class Take(Protocol):
    def __call__(self, name: str, example: int, place: Place, inputs: torch.Tensor) -> None:
        """Takes what it wants of the input of a place for an example."""


@torch.no_grad()
def listen(places: Mapping[str, Place], examples: Examples, take: Take, progress: Progress) -> None:
    """Gives `take` the input of every place for every example. No hook is left behind."""
    now = 0
    had: set[str] = set()

    def hook(name: str, place: Place) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        def hear(_: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if name not in had:
                had.add(name)
                take(name, now, place, inputs[0])

        return hear

    handles = [
        place.layer.register_forward_pre_hook(hook(name, place)) for name, place in places.items()
    ]
    try:
        for now in range(examples.count):
            progress(now, examples.count, examples.of)
            had.clear()
            examples.run(now)
    finally:
        for handle in handles:
            handle.remove()
