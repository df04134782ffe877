"""Some rows of a module, or all of them: what they become, and their row of the report."""

from dataclasses import dataclass, replace
from typing import NoReturn

import torch

from ..adapters import Adapter, FullDifference
from ..adapters.adapter import Retargeted
from ..adapters.dora import DoraAdapter
from ..algebra.updates import Update
from ..errors import ProLoRAError
from ..models.outline import is_outline
from ..models.references import Slice
from ..pairing.module_pairs import ModulePair, as_matrix
from .maps import PairMaps
from .report import Measures, ModuleReport
from .settings import TransferSettings
from .task_weights import TaskWeights, WeightRows


def own_tensors(pair: ModulePair, settings: TransferSettings) -> Adapter | None:
    """A module with the tensors that the file has of it; None where they must become others."""
    adapter, rank = pair.adapter, settings.rank
    is_cut = (rank and not adapter.rank) or 0 < rank < adapter.rank
    if is_cut or pair.joins or pair.shared_from or pair.rows is not None:
        return None
    return adapter.kept_for(pair.target_shape)


def own_for_target(pair: ModulePair, weights: TaskWeights) -> Adapter | None:
    """The same for a module that moves: the magnitude of a DoRA is for the target's norms."""
    own = own_tensors(pair, weights.settings)
    if isinstance(own, DoraAdapter):
        return own.with_norms_of(*weights.of(None).seen_by(own))
    return own


@dataclass(frozen=True)
class Part:
    """Some rows of a module, None for all.

    Attributes:
        adapter: theirs, or that of the whole module where it keeps its own tensors; None below
            the threshold.
        row: of the report.
    """

    rows: Slice | None
    adapter: Adapter | None
    row: ModuleReport


def part_of(pair: ModulePair, rows: Slice | None) -> ModulePair:
    """The pair of a part of both weights, as maps and report see it; the pair itself for all."""
    if rows is None:
        return pair
    first = pair.rows.start if pair.rows is not None else 0
    return replace(
        pair,
        source=pair.source.narrowed(first + rows.start, rows.length),
        target=pair.target.narrowed(rows.start, rows.length),
        source_shape=(rows.length, *pair.source_shape[1:]),
        target_shape=(rows.length, *pair.target_shape[1:]),
        rows=Slice(0, first + rows.start, rows.length),
        parts=(),
    )


def update_of(pair: ModulePair, weights: WeightRows) -> Update | None:
    """The update of a module's rows; None for a part of it that the LoRA has nothing for."""
    adapter = pair.adapter
    update = adapter.update(weights.whole.seen_by(adapter))
    if not update.energy() < torch.finfo(torch.float32).max:
        if is_outline(weights.whole.source_model):
            refuse_unknown(adapter)
        raise ProLoRAError(
            f"The {adapter.family} of the module {adapter.name} makes an update beyond all bounds "
            "(infinite, or not a number). Its training broke down: use an earlier epoch of it."
        )
    if pair.rows is not None:
        update = update.rows(pair.rows.start, pair.rows.length)
    # The magnitude of a DoRA changes rows without an update as well.
    if weights.rows is not None and not update.energy() and not isinstance(adapter, DoraAdapter):
        return None
    return update


def refuse_unknown(adapter: Adapter) -> NoReturn:
    """Raises the error for a module that is made of weights which an outline does not have."""
    raise ProLoRAError(
        f"The {adapter.family} of the module {adapter.name} is made from the source's weight, "
        "which a recording does not hold. Choose the checkpoint that the LoRA was trained on as "
        "the source."
    )


def copied_part(
    pair: ModulePair, update: Update, why: str, weights: WeightRows, own: Adapter | None
) -> Part:
    """Rows that stay as they are.

    Args:
        pair: of these rows, see part_of.
        own: the module with its own tensors; None where it gets others.
    """
    adapter = _of_rows(pair)
    # A copy is as it was in all it holds: a DoRA's magnitude stays with the source's norms.
    place = weights.seen_by(adapter)[0].reshape(pair.target_shape)
    copied = _as_it_is(pair, update, weights.whole.settings.rank, (place, place), own)
    row = row_of(
        pair,
        "copied",
        said(why, _becomes(adapter, copied), adapter.note),
        Measures(),
        rank_out=copied.adapter.rank,
        energy_dropped=copied.dropped,
    )
    return Part(weights.rows, copied.adapter, row)


def _as_it_is(
    pair: ModulePair,
    update: Update,
    rank: int,
    places: tuple[torch.Tensor, torch.Tensor],
    own: Adapter | None,
) -> Retargeted:
    """Rows with the update that they have.

    Exact where the family has a rank, or would be written as it is if these rows were a weight of
    their own; else what keeps 99 % of the energy.

    Args:
        rank: that was chosen, or 0.
        places: the two weights, see Adapter.retarget.
        own: see copied_part.
    """
    if own is not None:
        return Retargeted(own, update.energy(), dropped=0.0)
    adapter = _of_rows(pair)
    direction = adapter.direction if isinstance(adapter, DoraAdapter) else adapter
    has_no_rank = not adapter.rank and not isinstance(direction, FullDifference)
    if not rank and has_no_rank and adapter.kept_for(pair.target_shape) is not None:
        rank = min(as_matrix(pair.target_shape))
    return adapter.retarget(update, rank, *places)


def _becomes(adapter: Adapter, moved: Retargeted) -> str:
    """What is to be said where something that should stay as it is cannot."""
    return "" if moved.adapter.family == adapter.family else "as a LoRA"


def reaches(measures: Measures, settings: TransferSettings) -> bool:
    """Whether two weights are alike enough; so are those of which nothing is known."""
    similarity = measures.similarity
    return similarity is None or similarity.reaches(settings.threshold)


def moved_part(
    pair: ModulePair, update: Update, maps: PairMaps, weights: WeightRows, own: Adapter | None
) -> Part:
    """Rows that move through their own maps, or stay behind below the threshold.

    Args:
        pair, own: see copied_part.
    """
    settings, adapter = weights.whole.settings, _of_rows(pair)
    mode = settings.chosen_mode
    measures = replace(maps.measures, quadrants=maps.quadrants(update))
    if not reaches(measures, settings):
        reason = f"similarity below the threshold {settings.threshold:g}"
        return Part(weights.rows, None, row_of(pair, "skipped", reason, measures))
    found = maps.moved(update, adapter.name)
    measures = replace(measures, readouts_off=found.readouts_off)
    places = weights.seen_by(adapter)
    becomes = ""
    if mode.as_it_is:
        moved = _as_it_is(pair, found.update, settings.rank, places, own)
        becomes = _becomes(adapter, moved)
    else:
        rank = settings.rank or (0 if adapter.rank else mode.rank)
        moved = adapter.retarget(found.update, rank, *places)
    if settings.rank and moved.dropped:  # they are of the whole rank
        measures = replace(measures, readouts_off=None)
    before = update.energy()
    row = row_of(
        pair,
        "moved",
        said(maps.note, found.note, becomes, adapter.note),
        measures,
        rank_out=moved.adapter.rank,
        energy_dropped=moved.dropped,
        energy_kept=moved.energy / before if before and mode.keeps_a_share else None,
    )
    return Part(weights.rows, moved.adapter, row)


def _of_rows(pair: ModulePair) -> Adapter:
    """The adapter of the rows that a pair is of."""
    if pair.rows is None:
        return pair.adapter
    return pair.adapter.of_rows(pair.rows.start, pair.rows.length)


def said(*reasons: str) -> str:
    """What there is of them, as one."""
    return "; ".join(filter(None, reasons))


def row_of(
    pair: ModulePair,
    status: str,
    reason: str,
    measures: Measures,
    rank_out: int = 0,
    energy_dropped: float = 0.0,
    energy_kept: float | None = None,
) -> ModuleReport:
    """A row of the report."""
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
        energy_kept=energy_kept,
        energy_dropped=energy_dropped,
    )
