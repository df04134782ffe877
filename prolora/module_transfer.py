"""One module: two weights and an update in, the moved update and a row of the report out."""

from dataclasses import dataclass

import torch

from .adapters import LoraAdapter
from .matching import Pair
from .projection import Factors, balance, energy, project, quadrants, recompress
from .report import Measures, ModuleReport
from .settings import TransferSettings
from .subspace import leading_subspace, similarity

# Equal subspaces miss a similarity of 1 by this much in float32; a threshold of 1 lets them pass.
_ROUNDING = 1e-6


@dataclass(frozen=True)
class MovedModule:
    """The moved adapter, or None where the similarity was below the threshold, and its row."""

    adapter: LoraAdapter | None
    row: ModuleReport


def transfer_module(
    pair: Pair,
    source_weight: torch.Tensor,
    target_weight: torch.Tensor,
    settings: TransferSettings,
) -> MovedModule:
    """Moves one module's update from the source weight to the target weight.

    Args:
        source_weight, target_weight: m x n, finite, of settings.dtype on settings.device.
    """
    update = pair.adapter.factors(settings.device, settings.dtype)
    if settings.copy_identical and torch.equal(source_weight, target_weight):
        return _finish(pair, update, settings, "copied", "the weights are identical", Measures())

    source = leading_subspace(source_weight, settings.subspace_energy)
    target = leading_subspace(target_weight, settings.subspace_energy)
    alike = similarity(source, target)
    parts = quadrants(update, source)
    measures = Measures(source.rank, target.rank, alike, parts)
    if alike.score < settings.threshold - _ROUNDING:
        reason = f"similarity below the threshold {settings.threshold:g}"
        return MovedModule(None, _row(pair, "skipped", reason, measures))
    moved = project(update, source, target, settings.mode)
    return _finish(pair, moved, settings, "moved", "", measures, before=energy(update))


def copy_module(pair: Pair, settings: TransferSettings) -> MovedModule:
    """Takes one module's update as it is: the baseline, which needs neither weight."""
    update = pair.adapter.factors(settings.device, settings.dtype)
    return _finish(pair, update, settings, "copied", "mode copy", Measures())


def _finish(
    pair: Pair,
    update: Factors,
    settings: TransferSettings,
    status: str,
    reason: str,
    measures: Measures,
    before: float | None = None,
) -> MovedModule:
    cut = recompress(update, settings.rank or pair.adapter.rank)
    kept = energy(cut.factors) / before if before else None
    adapter = pair.adapter.with_factors(balance(cut.factors))
    row = _row(pair, status, reason, measures, cut.factors.rank, cut.dropped, kept)
    return MovedModule(adapter, row)


def _row(
    pair: Pair,
    status: str,
    reason: str,
    measures: Measures,
    rank_out: int = 0,
    dropped: float = 0.0,
    kept: float | None = None,
) -> ModuleReport:
    return ModuleReport(
        name=pair.adapter.name,
        status=status,
        reason=reason,
        source_key=str(pair.source),
        target_key=str(pair.target),
        source_shape=pair.source_shape,
        target_shape=pair.target_shape,
        measures=measures,
        rank_in=pair.adapter.rank,
        rank_out=rank_out,
        energy_kept=kept,
        energy_dropped=dropped,
    )
