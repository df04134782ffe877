"""How alike two modules are, quickly: what pairs blocks by."""

from collections.abc import Callable
from typing import Protocol

import torch

from .module_tree import Node
from .subspace import Subspace, similarity, sketch
from .weights import Model, WeightRef

# Leading directions that are compared: an eighth of all, so that chance gives an eighth at most.
_DIRECTIONS, _SHARE = 32, 8


class Likeness(Protocol):
    def __call__(self, source: Node, target: Node) -> float:
        """About 0 for unrelated weights, 1 for equal ones; both of one shape."""


class SketchedLikeness:
    """The similarity of Eq. 1 between leading directions, corrected for chance.

    Every weight is read once. A sketch of one has about a hundredth of its size, and all are kept.

    Args:
        watch: called with the name of each weight before it is read; what it raises stops the work.
    """

    def __init__(
        self, source: Model, target: Model, device: torch.device, watch: Callable[[str], None]
    ) -> None:
        self._models = source, target
        self._device = device
        self._watch = watch
        self._sketches: dict[tuple[int, str], Subspace] = {}

    def __call__(self, source: Node, target: Node) -> float:
        alike = similarity(self._sketch(0, source), self._sketch(1, target))
        return min(alike.left_corrected, alike.right_corrected)

    def _sketch(self, side: int, node: Node) -> Subspace:
        if (side, node.key) not in self._sketches:
            model = self._models[side]
            self._watch(f"{model.name}: {node.path}")
            weight = model.weight(WeightRef(node.key), self._device, torch.float32).flatten(1)
            rank = min(_DIRECTIONS, max(min(weight.shape) // _SHARE, 1))
            self._sketches[side, node.key] = sketch(weight, rank)
        return self._sketches[side, node.key]
