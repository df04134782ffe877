"""Rivals that need the weights alone: CASA of nothing, and the update without the models' drift."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from prolora.adapters import Adapter
from prolora.adapters.difference import FullDifference
from prolora.adapters.dora import DoraAdapter
from prolora.algebra.updates import DenseUpdate, Update
from prolora.models.model import Model
from prolora.pairing.module_pairs import ModulePair, ResolvedAdapter
from prolora.transfer.assemble import TransferResult
from prolora.transfer.job import transfer_resolved
from prolora.transfer.maps import ArbitrationMaps, BothWeights, Moved, PairMaps
from prolora.transfer.report import Measures
from prolora.transfer.resolve import ResolvedLora
from prolora.transfer.settings import TransferSettings

CASA = TransferSettings(mode="casa")
_AS_THEY_ARE = TransferSettings(mode="copy")  # every module that has a place in the target


def casa_of_nothing(
    lora: ResolvedLora, target: Model, settings: TransferSettings = CASA
) -> TransferResult:
    """What mode casa gives for a LoRA of the same modules and ranks that changes nothing.

    CASA takes back a part of the drift W_t - W_s whatever the LoRA is (algebra/casa.py). This is
    that part alone: the control for a gain of mode casa that has nothing to do with the LoRA. A
    DoRA is one without its magnitude here.

    Args:
        settings: those of the row `casa` that this one stands beside.
    """
    plain = _changed(lora, lambda module: _direction(module.adapter))
    # Where both weights are the same there is no drift, and the LoRA itself would be copied.
    settings = replace(settings, mode="casa", copy_identical=False)
    return transfer_resolved(plain, target, settings, maps=_OfNothing(settings.subspace_energy))


def orthogonal(
    lora: ResolvedLora, target: Model, settings: TransferSettings = _AS_THEY_ARE
) -> TransferResult:
    """The update without its part along the drift: delta - (<delta, D> / <D, D>) D, D = W_t - W_s.

    In the Frobenius inner product, a weight at a time; the parts of a fused weight (q, k, v) by
    themselves. The results are full differences, for nothing of them may be cut; a DoRA is one over
    a full difference.

    It is what the public code of arXiv 2602.12952 calls orthogonal shift, at its default beta = 1
    (apanariello4/merge-and-rebase at 345c570, rebase/methods/orthogonal_shift.py). We know of no
    paper that proposes it.
    """
    whole = _changed(lora, lambda module: _as_difference(module, lora.source))
    return transfer_resolved(whole, target, settings, maps=_OrthogonalMaps())


def _changed(lora: ResolvedLora, change: Callable[[ResolvedAdapter], Adapter]) -> ResolvedLora:
    modules = [replace(module, adapter=change(module)) for module in lora.adapters]
    return replace(lora, adapters=tuple(modules))


def _direction(adapter: Adapter) -> Adapter:
    return adapter.direction if isinstance(adapter, DoraAdapter) else adapter


def _as_difference(module: ResolvedAdapter, source: Model) -> Adapter:
    """An adapter whose update is a whole matrix, which no transfer cuts to a rank."""
    adapter = module.adapter
    if adapter.reshape:
        raise ValueError(f"{adapter.name} pads its weight, so that the two have no difference")
    weight = source.weight(module.ref, torch.device("cpu"), torch.float32)
    delta = adapter.update(weight).delta.reshape(module.shape)
    difference = FullDifference(adapter.name, delta)
    if isinstance(adapter, DoraAdapter):
        return replace(adapter, direction=difference)
    return difference


@dataclass(frozen=True)
class _OfNothing:
    """CASA's maps for an update that is nothing, whatever it is."""

    energy: float

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Nothing, as ArbitrationMaps."""

    def of(self, both: Sequence[tuple[ModulePair, BothWeights]]) -> list[PairMaps]:
        return [_OfNothingPairMaps(found) for found in ArbitrationMaps(self.energy).of(both)]


@dataclass(frozen=True)
class _OfNothingPairMaps:
    base: PairMaps
    note = ""

    @property
    def measures(self) -> Measures:
        return self.base.measures

    def moved(self, update: Update, module: str) -> Moved:
        return self.base.moved(DenseUpdate(torch.zeros_like(update.delta)), module)

    def quadrants(self, update: Update) -> None:
        return None


class _OrthogonalMaps:
    """See orthogonal, and transfer.maps.Maps."""

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Nothing: each pair of weights tells all there is to know of it."""

    def of(self, both: Sequence[tuple[ModulePair, BothWeights]]) -> list[PairMaps]:
        return [_OrthogonalPairMaps(weights) for _, weights in both]


@dataclass(frozen=True)
class _OrthogonalPairMaps:
    weights: BothWeights
    measures = Measures()
    note = ""

    def moved(self, update: Update, module: str) -> Moved:
        delta = update.delta.double()
        drift = self.weights.target.double() - self.weights.source.double()
        along = (delta * drift).sum() / drift.square().sum()
        return Moved(DenseUpdate((delta - along * drift).to(update.delta)))

    def quadrants(self, update: Update) -> None:
        return None
