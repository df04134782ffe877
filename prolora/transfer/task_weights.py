"""The two weights of a task: each is read where it is looked at, and known by its content."""

from collections.abc import Hashable
from dataclasses import dataclass

import torch

from ..adapters import Adapter, LoraAdapter
from ..algebra.kept import Forgetful
from ..lazy import lazy
from ..models.model import Model
from ..models.outline import is_outline
from ..models.references import Slice
from ..pairing.module_pairs import ModulePair
from .settings import TransferSettings


@dataclass(frozen=True)
class TaskWeights:
    """Both weights, in their own shapes; padded for a module that pads them.

    Attributes:
        pair: where they lie.
        kept: where their digests are asked for; see algebra/kept.py.
    """

    pair: ModulePair
    source_model: Model
    target_model: Model
    settings: TransferSettings
    kept: Forgetful

    @lazy
    def source(self) -> torch.Tensor:
        """All rows of the source's. Of an outline, not a number."""
        if is_outline(self.source_model):  # what is computed from what is not known is no number
            unknown = torch.full((), torch.nan, dtype=self.settings.dtype)
            return unknown.to(self.settings.device).expand(self.pair.source_shape)
        settings = self.settings
        weight = self.source_model.weight(self.pair.source, settings.device, settings.dtype)
        return _padded(weight, self.pair.source_shape)

    @lazy
    def target(self) -> torch.Tensor:
        """The same of the target."""
        settings = self.settings
        weight = self.target_model.weight(self.pair.target, settings.device, settings.dtype)
        return _padded(weight, self.pair.target_shape)

    def read(self) -> None:
        """Reads both, and what they are known by."""
        _ = self.key, self.source, self.target

    def seen_by(self, adapter: Adapter) -> torch.Tensor:
        """The source's weight for Adapter.update. A LoRA looks at its dtype and device alone."""
        if isinstance(adapter, LoraAdapter):
            return torch.empty(0, dtype=self.settings.dtype, device=self.settings.device)
        return self.source

    @lazy
    def key(self) -> tuple[Hashable, ...]:
        """What both are known by. The digests are of what is stored: it is half as long."""
        pair, settings, kept = self.pair, self.settings, self.kept
        unknown = is_outline(self.source_model)
        source = "" if unknown else kept.digest(lambda: self.source_model.stored(pair.source))
        target = kept.digest(lambda: self.target_model.stored(pair.target))
        shapes = pair.source_shape, pair.target_shape
        return source, target, *shapes, settings.dtype, settings.device

    def of(self, rows: Slice | None) -> "WeightRows":
        """Those rows of both that move together; None for all that the target has."""
        return WeightRows(self, rows)


@dataclass(frozen=True)
class WeightRows:
    """Some rows of both weights, as matrices; see maps.BothWeights."""

    whole: TaskWeights
    rows: Slice | None

    @property
    def source(self) -> torch.Tensor:
        return self._narrow(_narrow(self.whole.source, self.whole.pair.rows)).flatten(1)

    @property
    def target(self) -> torch.Tensor:
        return self._narrow(self.whole.target).flatten(1)

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        ours, theirs = self._unread
        return tuple(ours.flatten(1).shape), tuple(theirs.flatten(1).shape)

    @property
    def device(self) -> torch.device:
        return self.whole.settings.device

    @property
    def key(self) -> tuple[Hashable, ...]:
        return (*self.whole.key, self.whole.pair.rows, self.rows)

    @property
    def are_identical(self) -> bool:
        """Whether they have the same values, in either of the two layouts."""

        def compare() -> bool:
            ours, theirs = self.source, self.target
            return ours.shape == theirs.shape and torch.equal(ours, theirs)

        return self.whole.kept.figure((*self.key, "identical"), compare)

    def seen_by(self, adapter: Adapter) -> tuple[torch.Tensor, torch.Tensor]:
        """Both in their own shapes, for Adapter.retarget. A LoRA looks at nothing else."""
        ours, theirs = self._unread
        if isinstance(adapter, LoraAdapter):
            return ours, theirs
        return self.source.reshape(ours.shape), self.target.reshape(theirs.shape)

    @property
    def _unread(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Tensors of their shapes, without numbers."""
        pair = self.whole.pair
        ours, theirs = (
            torch.empty(shape, device="meta") for shape in (pair.source_shape, pair.target_shape)
        )
        return self._narrow(_narrow(ours, pair.rows)), self._narrow(theirs)

    def _narrow(self, weight: torch.Tensor) -> torch.Tensor:
        return _narrow(weight, self.rows)


def _narrow(weight: torch.Tensor, rows: Slice | None) -> torch.Tensor:
    return weight if rows is None else weight.narrow(0, rows.start, rows.length)


def _padded(weight: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight with zeros after it, up to the shape of its pair."""
    if weight.shape == shape:
        return weight
    room = [(0, wanted - side) for wanted, side in zip(shape, weight.shape, strict=True)]
    return torch.nn.functional.pad(weight, [side for pair in reversed(room) for side in pair])
