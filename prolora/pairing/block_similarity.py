"""How alike two modules are, quickly: what pairs blocks by."""

import math
from collections.abc import Callable, Container
from typing import Protocol

import torch

from ..algebra.subspace import Subspace, randomized_subspace, similarity
from ..errors import ProLoRAError
from ..models.model import Model
from ..models.references import WeightRef
from .module_tree import Node

# Leading directions that are compared: an eighth of all, so that chance gives an eighth at most.
_DIRECTIONS, _SHARE = 32, 8
_SHELF = 2**24  # numbers


class BlockSimilarity(Protocol):
    def __call__(self, source: Node, target: Node) -> float | None:
        """About 0 for unrelated weights, 1 for equal ones; both of one shape.

        None where there is nothing to compare.
        """


class RandomizedBlockSimilarity:
    """The similarity of Eq. 1 between leading directions, corrected for chance.

    Every weight is read once. A sketch of one has 1 to 4 % of its size, and all are kept.

    Args:
        watch: called with the name of each weight before it is read; what it raises stops the work.
        moved: the source's keys that must be readable. A weight that cannot be read, of one that
            nothing is moved from, is left out of the comparison.
    """

    def __init__(
        self,
        source: Model,
        target: Model,
        device: torch.device,
        watch: Callable[[str], None],
        moved: Container[str] = (),
    ) -> None:
        self._models = source, target
        self._device = device
        self._watch = watch
        self._moved = moved
        self._shelf = _Shelf(device)
        self._subspaces: dict[tuple[int, str], Subspace | ProLoRAError] = {}

    @torch.no_grad()
    def __call__(self, source: Node, target: Node) -> float | None:
        ours, theirs = self._subspace(0, source), self._subspace(1, target)
        for found in (ours, theirs):
            if isinstance(found, ProLoRAError) and source.key in self._moved:
                raise found
        if isinstance(ours, ProLoRAError) or isinstance(theirs, ProLoRAError):
            return None
        if not ours.rank and not theirs.rank:  # zero weights are alike in all models
            return None
        phi = similarity(ours, theirs)
        sides = (phi.left_corrected, phi.right_corrected)
        # Of one row, as a table of modulations is stored, only the other side tells something.
        return min((side for side in sides if not math.isnan(side)), default=None)

    def _subspace(self, side: int, node: Node) -> Subspace | ProLoRAError:
        if (side, node.key) not in self._subspaces:
            model = self._models[side]
            self._watch(f"{model.name}: {node.path}")
            try:
                weight = model.weight(WeightRef(node.key), self._device, torch.float32).flatten(1)
                rank = min(_DIRECTIONS, max(min(weight.shape) // _SHARE, 1))
                self._subspaces[side, node.key] = self._shelf.kept(
                    randomized_subspace(weight, rank)
                )
            except ProLoRAError as error:  # raised where it matters, see above
                self._subspaces[side, node.key] = error
        return self._subspaces[side, node.key]


class _Shelf:
    """Keeps sketches in a few large tensors.

    Small ones that stay between large ones that go leave holes in the heap: of SDXL and SSD-1B they
    cost 2.3 GB for 0.3 GB of sketches.
    """

    def __init__(self, device: torch.device) -> None:
        self._free = torch.empty(0, dtype=torch.float32, device=device)

    def kept(self, subspace: Subspace) -> Subspace:
        return Subspace(*(self._copy(part) for part in (subspace.U, subspace.V, subspace.shares)))

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        size = tensor.numel()
        if size > self._free.numel():
            self._free = self._free.new_empty(max(size, _SHELF))
        place, self._free = self._free[:size].view(tensor.shape), self._free[size:]
        return place.copy_(tensor)
