"""One module: two weights and an update in, the moved update and a row of the report out."""

from dataclasses import dataclass, replace

import torch

from ..adapters import Adapter
from ..algebra.casa import arbitrate
from ..algebra.dense import DenseUpdate
from ..algebra.subspace import leading_subspace, similarity
from ..algebra.updates import Update
from ..algebra.widths import similarity_across, with_signs
from ..errors import ProLoRAError
from ..pairing.module_pairs import Pair
from .report import Measures, ModuleReport
from .settings import TransferSettings

CASA_RANK = 32  # to which its authors cut their result, which is of full rank


@dataclass(frozen=True)
class MovedModule:
    """The moved adapter, or None where the similarity was below the threshold, and its row."""

    adapter: Adapter | None
    row: ModuleReport


@dataclass(frozen=True)
class Module:
    """What one module is moved between.

    Attributes:
        source, target: the two weights in their own shapes, finite, of settings.dtype on
            settings.device.
    """

    pair: Pair
    source: torch.Tensor
    target: torch.Tensor
    settings: TransferSettings


def transfer_module(module: Module) -> MovedModule:
    """Moves one module's update from the source weight to the target weight.

    Raises:
        ProLoRAError: the update is not finite, or does not fit the weights after all.
    """
    settings = module.settings
    adapter = module.pair.adapter
    update = adapter.update(module.source)
    if not update.energy() < torch.finfo(torch.float32).max:
        raise ProLoRAError(
            f"The {adapter.family} of the module {adapter.name} makes an update beyond all bounds "
            "(infinite, or not a number). Its training broke down: use an earlier epoch of it."
        )
    if module.pair.rows is not None:
        part = module.pair.rows
        update = update.rows(part.start, part.length)
        module = replace(module, source=module.source.narrow(0, part.start, part.length))
    if settings.mode == "copy":
        return _finish(module, update, "copied", "mode copy", Measures())
    source, target = module.source.flatten(start_dim=1), module.target.flatten(start_dim=1)
    if settings.copy_identical and torch.equal(source, target):
        return _finish(module, update, "copied", "the weights are identical", Measures())
    return _project(module, update, source, target)


def _project(
    module: Module, update: Update, source: torch.Tensor, target: torch.Tensor
) -> MovedModule:
    """Between the weights as matrices, m x n."""
    settings = module.settings
    source_subspace = leading_subspace(source, settings.subspace_energy)
    target_subspace = leading_subspace(target, settings.subspace_energy)
    reason = ""
    if source.shape == target.shape:
        phi = similarity(source_subspace, target_subspace)
    else:
        source_subspace, target_subspace = with_signs(source_subspace, target_subspace)
        phi = similarity_across(source_subspace, target_subspace)
        reason = "to another width, which is experimental"
    parts = update.quadrants(source_subspace)
    measures = Measures(source_subspace.rank, target_subspace.rank, phi, parts)
    if not phi.reaches(settings.threshold):
        reason = f"similarity below the threshold {settings.threshold:g}"
        return MovedModule(None, _row(module, "skipped", reason, measures))
    if settings.mode == "casa":
        arbitrated = DenseUpdate(arbitrate(update.delta, source, target))
        return _finish(module, arbitrated, "moved", reason, measures)
    projected = update.project(source_subspace, target_subspace, settings.mode)
    return _finish(module, projected, "moved", reason, measures, before=update.energy())


def _finish(
    module: Module,
    update: Update,
    status: str,
    reason: str,
    measures: Measures,
    before: float | None = None,
) -> MovedModule:
    adapter, settings = module.pair.adapter, module.settings
    # A copy is as it was in all it holds: a DoRA's magnitude stays with the source's norms.
    place = module.source if settings.mode == "copy" else module.target
    rank = settings.rank
    if settings.mode == "casa" and not adapter.rank:
        rank = rank or CASA_RANK
    moved = adapter.retarget(update, rank, module.source, place)
    reason = "; ".join(filter(None, (reason, adapter.note)))
    row = _row(
        module,
        status,
        reason,
        measures,
        rank_out=moved.adapter.rank,
        dropped=moved.dropped,
        kept=moved.energy / before if before else None,
    )
    return MovedModule(moved.adapter, row)


def _row(
    module: Module,
    status: str,
    reason: str,
    measures: Measures,
    rank_out: int = 0,
    dropped: float = 0.0,
    kept: float | None = None,
) -> ModuleReport:
    pair = module.pair
    return ModuleReport(
        name=pair.adapter.name,
        status=status,
        reason=reason,
        family=pair.adapter.family,
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
