"""One task: the updates that move between one pair of weights, each with its row of the report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from ..adapters import Adapter
from ..algebra.updates import Update
from ..errors import ProLoRAError
from ..models.model import Model
from ..models.references import Slice
from ..pairing.module_pairs import ModulePair
from .joining import join_rows
from .maps import Maps, PairMaps
from .report import Measures, ModuleReport
from .settings import TransferSettings

_IDENTICAL = "the weights are identical"


@dataclass(frozen=True)
class ModuleResult:
    """What became of one module.

    Attributes:
        adapter: for the target; None where nothing of it was moved.
        rows: of the report: one, or one for each part of a fused weight.
    """

    adapter: Adapter | None
    rows: tuple[ModuleReport, ...]


@dataclass(frozen=True)
class Task:
    """The modules that move between one pair of weights: its maps are made once for all of them."""

    pairs: tuple[ModulePair, ...]
    source: Model
    target: Model
    settings: TransferSettings

    @cached_property
    def source_weight(self) -> torch.Tensor:
        """In its own shape; padded for a module that pads it."""
        pair = self.pairs[0]
        weight = self.source.weight(pair.source, self.settings.device, self.settings.dtype)
        return _padded(weight, pair.source_shape)

    @cached_property
    def target_weight(self) -> torch.Tensor:
        """The same of the target."""
        pair = self.pairs[0]
        weight = self.target.weight(pair.target, self.settings.device, self.settings.dtype)
        return _padded(weight, pair.target_shape)

    @property
    def source_rows(self) -> torch.Tensor:
        """The rows of the source's weight that the target has."""
        return _narrow(self.source_weight, self.pairs[0].rows)


def tasks_of(
    pairs: Sequence[ModulePair], source: Model, target: Model, settings: TransferSettings
) -> list[Task]:
    """Groups modules by the weights that they move between, in the order of the first of each."""
    groups: dict[tuple[object, ...], list[ModulePair]] = {}
    for pair in pairs:
        shapes = pair.source_shape, pair.target_shape
        key = (pair.source, pair.target, *shapes, pair.rows, pair.parts)
        groups.setdefault(key, []).append(pair)
    return [Task(tuple(group), source, target, settings) for group in groups.values()]


def run(task: Task, maps: Maps | None) -> list[tuple[ModulePair, ModuleResult]]:
    """Moves the modules of a task, whose weights it reads.

    Args:
        maps: None for a mode that moves every update as it is.

    Raises:
        ProLoRAError: see Model.weight; or an update is not finite, or does not fit the weights.
    """
    if maps is None:
        return [(pair, _copied(pair, task, "mode copy")) for pair in task.pairs]
    if task.settings.copy_identical and _equal(task.source_rows, task.target_weight):
        return [(pair, _copied(pair, task, _IDENTICAL)) for pair in task.pairs]
    found: list[list[_Part]] = [[] for _ in task.pairs]
    for rows in task.pairs[0].parts or (None,):
        source = _narrow(task.source_rows, rows)
        target = _narrow(task.target_weight, rows)
        own = maps.of(task.pairs[0], source.flatten(1), target.flatten(1))
        for pair, moved in zip(task.pairs, found, strict=True):
            moved += _moved(_part_of(pair, rows), rows, task, own, source, target)
    return [
        (pair, _joined(pair, moved, task.target_weight))
        for pair, moved in zip(task.pairs, found, strict=True)
    ]


@dataclass(frozen=True)
class _Part:
    """Some rows of a module, None for all: their adapter, None below the threshold, their row."""

    rows: Slice | None
    adapter: Adapter | None
    row: ModuleReport


def _moved(
    pair: ModulePair,
    rows: Slice | None,
    task: Task,
    maps: PairMaps,
    source: torch.Tensor,
    target: torch.Tensor,
) -> Iterator[_Part]:
    """Rows of a module, through their own maps; nothing for rows that the LoRA has nothing for."""
    settings, adapter = task.settings, pair.adapter
    update = _update(adapter, task.source_weight)
    taken = pair.rows
    if taken is not None:
        update = update.rows(taken.start, taken.length)
    before = update.energy()
    if rows is not None and not before:
        return
    own = adapter if taken is None else adapter.of_rows(taken.start, taken.length)
    if rows is not None and settings.copy_identical and _equal(source, target):
        moved = own.retarget(update, settings.rank, source, target)
        row = _row(pair, "copied", _IDENTICAL, Measures(), rank_out=moved.adapter.rank)
        yield _Part(rows, moved.adapter, replace(row, energy_dropped=moved.dropped))
        return
    found = maps.subspaces
    measures = Measures(
        source_rank=found.source_rank if found is not None else None,
        target_rank=found.target_rank if found is not None else None,
        common_rank=found.source.rank if found is not None else None,
        similarity=maps.similarity,
        quadrants=maps.quadrants(update),
    )
    if maps.similarity is not None and not maps.similarity.reaches(settings.threshold):
        reason = f"similarity below the threshold {settings.threshold:g}"
        yield _Part(rows, None, _row(pair, "skipped", reason, measures))
        return
    mode, rank = settings.chosen_mode, settings.rank
    if not adapter.rank:
        rank = rank or mode.rank
    moved = own.retarget(maps.moved(update), rank, source, target)
    row = _row(
        pair,
        "moved",
        "; ".join(filter(None, (maps.note, adapter.note))),
        measures,
        rank_out=moved.adapter.rank,
        energy_dropped=moved.dropped,
        energy_kept=moved.energy / before if before and mode.keeps_a_share else None,
    )
    yield _Part(rows, moved.adapter, row)


def _copied(pair: ModulePair, task: Task, why: str) -> ModuleResult:
    """A module as it is: its own tensors where the target can name the whole of it."""
    adapter, rank = pair.adapter, task.settings.rank
    whole = pair.rows is None and not pair.joins
    own = adapter.kept_for(pair.target_shape) if whole else None
    chosen = rank if not adapter.rank else min(rank, adapter.rank) % adapter.rank
    if own is not None and not chosen:
        row = _row(pair, "copied", "; ".join(filter(None, (why, adapter.note))), Measures())
        return ModuleResult(own, (replace(row, rank_out=own.rank),))
    update = _update(adapter, task.source_weight)
    if pair.rows is not None:
        update = update.rows(pair.rows.start, pair.rows.length)
    # A copy is as it was in all it holds: a DoRA's magnitude stays with the source's norms.
    place = task.source_rows.reshape(pair.target_shape)
    moved = adapter.retarget(update, rank, place, place)
    reason = (
        f"{why}; its update, as a LoRA" if not isinstance(moved.adapter, type(adapter)) else why
    )
    row = _row(
        pair,
        "copied",
        "; ".join(filter(None, (reason, adapter.note))),
        Measures(),
        rank_out=moved.adapter.rank,
        energy_dropped=moved.dropped,
    )
    return ModuleResult(moved.adapter, (row,))


def _joined(pair: ModulePair, parts: Sequence[_Part], target: torch.Tensor) -> ModuleResult:
    rows = tuple(part.row for part in parts)
    if not pair.parts:
        return ModuleResult(parts[0].adapter, rows)
    if not parts:
        return ModuleResult(None, (_row(pair, "skipped", "its update is zero", Measures()),))
    moved = {part.rows: part.adapter for part in parts}
    all_rows = [(own, moved.get(own)) for own in pair.parts]
    return ModuleResult(join_rows(pair.adapter, all_rows, target), rows)


def _part_of(pair: ModulePair, rows: Slice | None) -> ModulePair:
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


def _update(adapter: Adapter, weight: torch.Tensor) -> Update:
    update = adapter.update(weight)
    if not update.energy() < torch.finfo(torch.float32).max:
        raise ProLoRAError(
            f"The {adapter.family} of the module {adapter.name} makes an update beyond all bounds "
            "(infinite, or not a number). Its training broke down: use an earlier epoch of it."
        )
    return update


def _row(
    pair: ModulePair,
    status: str,
    reason: str,
    measures: Measures,
    rank_out: int = 0,
    energy_dropped: float = 0.0,
    energy_kept: float | None = None,
) -> ModuleReport:
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


def _narrow(weight: torch.Tensor, rows: Slice | None) -> torch.Tensor:
    return weight if rows is None else weight.narrow(0, rows.start, rows.length)


def _equal(source: torch.Tensor, target: torch.Tensor) -> bool:
    """Whether two weights have the same values, in either of the two layouts."""
    ours, theirs = source.flatten(1), target.flatten(1)
    return ours.shape == theirs.shape and torch.equal(ours, theirs)


def _padded(weight: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight with zeros after it, up to the shape of its pair."""
    room = [(0, wanted - side) for wanted, side in zip(shape, weight.shape, strict=True)]
    return torch.nn.functional.pad(weight, [side for pair in reversed(room) for side in pair])
