"""Block similarity: a fast estimate of Eq. 1 between two modules, by which blocks are paired."""

import math
from collections.abc import Container, Sequence
from typing import Protocol

import torch

from ..algebra.kept import NOTHING_KEPT, Forgetful
from ..algebra.subspace import Subspace, randomized_subspace, similarity
from ..errors import ProLoRAError
from ..models.model import Model
from ..models.references import WeightRef
from ..progress import Progress, silent
from ..threads import Limits, all_in_threads, one_blas_thread
from .module_tree import Node

# The rank of the subspaces: 32, and at most an eighth of the weight's smaller side, so that chance
# gives at most 1/8.
_RANK, _SHARE = 32, 8


class BlockSimilarity(Protocol):
    def __call__(self, source: Node, target: Node) -> float | None:
        """About 0 for unrelated weights, 1 for equal ones. Both weights have the same shape.

        None where the two weights cannot be compared; they then do not count.
        """


class RandomizedBlockSimilarity:
    """Phi of Eq. 1 between randomized subspaces, the smaller side, corrected for chance.

    Every weight is read once, ahead of all calls (see prepare) or when a call needs it. Its
    randomized subspace is kept, which is 1 to 4 % of its size.

    Args:
        source, target: the two models.
        device: where the subspaces are computed and kept.
        progress: told of each weight before it is read; what it raises stops the work.
        required: the source keys whose pairs must be readable. A pair that is not required does not
            count if one of its weights cannot be read.
        kept: what is known of weights from earlier jobs.

    Raises:
        ProLoRAError: when called, for a required pair of which a weight cannot be read.
    """

    def __init__(
        self,
        source: Model,
        target: Model,
        device: torch.device,
        progress: Progress = silent,
        required: Container[str] = (),
        kept: Forgetful = NOTHING_KEPT,
    ) -> None:
        self._models = source, target
        self._device = device
        self._progress = progress
        self._required = required
        self._kept = kept
        self._subspaces: dict[tuple[int, str], Subspace | ProLoRAError] = {}

    def prepare(self, nodes: tuple[Sequence[Node], Sequence[Node]], workers: int = 0) -> None:
        """Reads weights that calls will need, several at once; the answers are the same.

        Args:
            nodes: of the source, and of the target; see alignment.compared.
            workers: see Limits.on.
        """
        asked = [(side, node) for side in (0, 1) for node in nodes[side]]
        limits = Limits.on(self._device, lambda place: _bytes_at_work(place[1]), workers)
        found = all_in_threads(
            asked,
            lambda place: self._found(*place),
            limits,
            self._progress,
            lambda place: self._named(*place),
        )
        for (side, node), subspace in zip(asked, found, strict=True):
            self._subspaces[side, node.key] = subspace

    @torch.no_grad()
    def __call__(self, source: Node, target: Node) -> float | None:
        ours, theirs = self._subspace(0, source), self._subspace(1, target)
        for found in (ours, theirs):
            if isinstance(found, ProLoRAError) and source.key in self._required:
                raise found
        if isinstance(ours, ProLoRAError) or isinstance(theirs, ProLoRAError):
            return None
        if (
            not ours.rank and not theirs.rank
        ):  # zero weights tell nothing: every model may have them
            return None
        phi = similarity(ours, theirs)
        sides = (phi.left_corrected, phi.right_corrected)
        # NaN for the side of a weight of one row or column, such as a table of modulations.
        return min((side for side in sides if not math.isnan(side)), default=None)

    def _subspace(self, side: int, node: Node) -> Subspace | ProLoRAError:
        if (side, node.key) not in self._subspaces:
            self._progress(0, 1, self._named(side, node))
            with one_blas_thread():
                self._subspaces[side, node.key] = self._found(side, node)
        return self._subspaces[side, node.key]

    def _named(self, side: int, node: Node) -> str:
        return f"{self._models[side].name}: {node.path}"

    def _found(self, side: int, node: Node) -> Subspace | ProLoRAError:
        """The subspace of a weight, or why it cannot be read: raised where its pair is required."""
        model, ref = self._models[side], WeightRef(node.key)

        def compute() -> tuple[torch.Tensor, ...]:
            weight = model.weight(ref, self._device, torch.float32).flatten(1)
            rank = min(_RANK, max(min(weight.shape) // _SHARE, 1))
            subspace = randomized_subspace(weight, rank)
            return subspace.U, subspace.V, subspace.shares

        try:
            key = self._kept.digest(lambda: model.stored(ref)), self._device, "randomized"
            return Subspace(*self._kept.tensors(key, compute, self._device))
        except ProLoRAError as error:
            return error.with_traceback(None)  # which would hold the weight


def _bytes_at_work(node: Node) -> int:
    """Of a weight as it is stored and in float32, and of what is beside."""
    return 10 * math.prod(node.shape)
