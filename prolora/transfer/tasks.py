"""One task: the updates that move between one pair of weights, each with its row of the report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

import torch

from ..adapters import Adapter, FullDifference
from ..adapters.dora import DoraAdapter
from ..algebra.kept import NOTHING_KEPT, Forgetful
from ..algebra.leading import bytes_at_work
from ..algebra.updates import Update
from ..errors import ProLoRAError
from ..lazy import lazy
from ..models.model import Model
from ..models.outline import is_outline
from ..models.references import Slice
from ..pairing.module_pairs import ModulePair, as_matrix
from .joining import join_rows
from .maps import Maps, PairMaps
from .report import Measures, ModuleReport
from .settings import TransferSettings
from .task_weights import TaskWeights, WeightRows

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
    kept: Forgetful = NOTHING_KEPT

    @lazy
    def weights(self) -> TaskWeights:
        """The two weights, with their place as the first of the modules has it."""
        pair = self.pairs[0]
        return TaskWeights(pair, self.source, self.target, self.settings, self.kept)

    @property
    def bytes_at_work(self) -> int:
        """About what it takes while it runs."""
        pair = self.pairs[0]
        return sum(map(bytes_at_work, (pair.source_shape, pair.target_shape)))

    @property
    def bytes_of_weights(self) -> int:
        """In float32."""
        return sum(4 * m * n for m, n in self._sides)

    @property
    def shorter_sides(self) -> tuple[int, ...]:
        """Of the two weights, by which they are decomposed."""
        return tuple(map(min, self._sides))

    @property
    def _sides(self) -> tuple[tuple[int, int], ...]:
        pair = self.pairs[0]
        return as_matrix(pair.source_shape), as_matrix(pair.target_shape)


# What became of each module of a task.
Results = list[tuple[ModulePair, ModuleResult]]


def tasks_of(
    pairs: Sequence[ModulePair],
    source: Model,
    target: Model,
    settings: TransferSettings,
    kept: Forgetful = NOTHING_KEPT,
) -> list[Task]:
    """Groups modules by the weights that they move between, in the order of the first of each."""
    groups: dict[tuple[object, ...], list[ModulePair]] = {}
    for pair in pairs:
        shapes = pair.source_shape, pair.target_shape
        key = (pair.source, pair.target, *shapes, pair.rows, pair.parts)
        groups.setdefault(key, []).append(pair)
    return [Task(tuple(group), source, target, settings, kept) for group in groups.values()]


def run(tasks: Sequence[Task], maps: Maps | None) -> Iterator[Results]:
    """Moves the modules of tasks, whose weights are read where they are needed.

    The weights of all of them are decomposed together, and are in memory to the end.

    Args:
        maps: None for a mode that moves every update as it is.

    Returns:
        Those of a task after the other.

    Raises:
        ProLoRAError: see Model.weight; or an update is not finite, or does not fit the weights.
    """
    begun = [_begun(task, maps) for task in tasks]
    both = [(b.task.pairs[0], part.weights) for b in begun for part in b.parts if part.moves]
    found = iter(maps.of(both) if maps is not None and both else ())
    for task in begun:
        yield task.finished(found)


@dataclass(frozen=True)
class _Rows:
    """Some rows of the weights of a task, None for all, and why their updates stay as they are."""

    rows: Slice | None
    weights: WeightRows
    why: str

    @property
    def moves(self) -> bool:
        return not self.why


@dataclass(frozen=True)
class _Begun:
    """A task of which is known which rows have to move.

    Attributes:
        kept: for each module what it becomes, where it stays with its own tensors.
        parts: what the others go by.
    """

    task: Task
    kept: tuple[ModuleResult | None, ...]
    parts: tuple[_Rows, ...]

    def finished(self, found: Iterator[PairMaps]) -> Results:
        """The results of the task's modules.

        Args:
            found: the maps of the parts that move, which are taken from it.
        """
        pairs = self.task.pairs
        rest = [pair for pair, result in zip(pairs, self.kept, strict=True) if result is None]
        others = iter(_in_parts(rest, self, found))
        return [(p, result or next(others)) for p, result in zip(pairs, self.kept, strict=True)]


def _begun(task: Task, maps: Maps | None) -> _Begun:
    copied = _why_copied(task, maps)
    kept = tuple(_kept(pair, task, copied) if copied else None for pair in task.pairs)
    slices = (task.pairs[0].parts or (None,)) if None in kept else ()
    return _Begun(task, kept, tuple(_rows_of(task, rows, copied) for rows in slices))


def _rows_of(task: Task, rows: Slice | None, why: str) -> _Rows:
    weights = task.weights.of(rows)
    if rows is not None and not why and _identical(task, weights):  # of all rows it is known
        why = _IDENTICAL
    return _Rows(rows, weights, why)


def _in_parts(
    pairs: Sequence[ModulePair], begun: _Begun, found: Iterator[PairMaps]
) -> list[ModuleResult]:
    """Modules whose update becomes another adapter, each part of a fused weight by itself."""
    task = begun.task
    parts: list[list[_Part]] = [[] for _ in pairs]
    for part in begun.parts:
        maps = next(found) if part.moves else None
        for pair, own in zip(pairs, parts, strict=True):
            of_rows = _part_of(pair, part.rows)
            update = _update_of(of_rows, part.rows, task)
            if update is None:
                continue
            if maps is None:
                made = _copied_part(of_rows, update, task, part.why, part.weights)
            else:
                made = _moved_part(of_rows, update, task, maps, part.weights)
            own.append(replace(made, rows=part.rows))
    return [_joined(pair, own, task) for pair, own in zip(pairs, parts, strict=True)]


def _why_copied(task: Task, maps: Maps | None) -> str:
    """Why the modules stay as they are; "" if they move."""
    if maps is None:
        return f"mode {task.settings.chosen_mode.name}"
    return _IDENTICAL if _identical(task, task.weights.of(None)) else ""


def _identical(task: Task, weights: WeightRows) -> bool:
    """Whether two weights count as one."""
    return task.settings.copy_identical and weights.are_identical


def _kept(pair: ModulePair, task: Task, why: str) -> ModuleResult | None:
    """A module with its own tensors; None where they must become others."""
    adapter, rank = pair.adapter, task.settings.rank
    is_cut = (rank and not adapter.rank) or 0 < rank < adapter.rank
    if is_cut or pair.joins or pair.shared_from or pair.rows is not None:
        return None
    own = adapter.kept_for(pair.target_shape)
    if own is None:
        return None
    row = _row(pair, "copied", _said(why, adapter.note), Measures(), rank_out=own.rank)
    return ModuleResult(own, (row,))


@dataclass(frozen=True)
class _Part:
    """Some rows of a module, None for all: their adapter, None below the threshold, their row."""

    adapter: Adapter | None
    row: ModuleReport
    rows: Slice | None = None


def _update_of(pair: ModulePair, rows: Slice | None, task: Task) -> Update | None:
    """The update of a module's rows; None for a part of it that the LoRA has nothing for."""
    adapter = pair.adapter
    update = adapter.update(task.weights.seen_by(adapter))
    if not update.energy() < torch.finfo(torch.float32).max:
        if is_outline(task.source):
            refuse_unknown(adapter)
        raise ProLoRAError(
            f"The {adapter.family} of the module {adapter.name} makes an update beyond all bounds "
            "(infinite, or not a number). Its training broke down: use an earlier epoch of it."
        )
    if pair.rows is not None:
        update = update.rows(pair.rows.start, pair.rows.length)
    # The magnitude of a DoRA changes rows without an update as well.
    if rows is not None and not update.energy() and not isinstance(adapter, DoraAdapter):
        return None
    return update


def refuse_unknown(adapter: Adapter) -> NoReturn:
    """Raises the error for a module that is made of weights which an outline does not have."""
    raise ProLoRAError(
        f"The {adapter.family} of the module {adapter.name} is made from the source's weight, "
        "which a recording does not hold. Choose the checkpoint that the LoRA was trained on as "
        "the source."
    )


def _copied_part(
    pair: ModulePair, update: Update, task: Task, why: str, weights: WeightRows
) -> _Part:
    """Rows that stay as they are, for which the file has no tensors of their own.

    Exact where the family has a rank, or would be written as it is if these rows were a weight of
    their own; else what keeps 99 % of the energy.
    """
    adapter, rank = _of_rows(pair), task.settings.rank
    # A copy is as it was in all it holds: a DoRA's magnitude stays with the source's norms.
    place = weights.seen_by(adapter)[0].reshape(pair.target_shape)
    direction = adapter.direction if isinstance(adapter, DoraAdapter) else adapter
    has_no_rank = not adapter.rank and not isinstance(direction, FullDifference)
    if not rank and has_no_rank and adapter.kept_for(pair.target_shape) is not None:
        rank = min(as_matrix(pair.target_shape))
    copied = adapter.retarget(update, rank, place, place)
    other = "" if copied.adapter.family == adapter.family else "as a LoRA"
    row = _row(
        pair,
        "copied",
        _said(why, other, adapter.note),
        Measures(),
        rank_out=copied.adapter.rank,
        energy_dropped=copied.dropped,
    )
    return _Part(copied.adapter, row)


def _moved_part(
    pair: ModulePair, update: Update, task: Task, maps: PairMaps, weights: WeightRows
) -> _Part:
    """Rows that move through their own maps, or stay behind below the threshold."""
    settings, mode, adapter = task.settings, task.settings.chosen_mode, _of_rows(pair)
    measures = replace(maps.measures, quadrants=maps.quadrants(update))
    if measures.similarity is not None and not measures.similarity.reaches(settings.threshold):
        reason = f"similarity below the threshold {settings.threshold:g}"
        return _Part(None, _row(pair, "skipped", reason, measures))
    rank = settings.rank or (0 if adapter.rank else mode.rank)
    found = maps.moved(update, adapter.name)
    measures = replace(measures, readouts_off=found.readouts_off)
    moved = adapter.retarget(found.update, rank, *weights.seen_by(adapter))
    if settings.rank and moved.dropped:  # they are of the whole rank
        measures = replace(measures, readouts_off=None)
    before = update.energy()
    row = _row(
        pair,
        "moved",
        _said(maps.note, found.note, adapter.note),
        measures,
        rank_out=moved.adapter.rank,
        energy_dropped=moved.dropped,
        energy_kept=moved.energy / before if before and mode.keeps_a_share else None,
    )
    return _Part(moved.adapter, row)


def _of_rows(pair: ModulePair) -> Adapter:
    """The adapter of the rows that a pair is of."""
    if pair.rows is None:
        return pair.adapter
    return pair.adapter.of_rows(pair.rows.start, pair.rows.length)


def _said(*reasons: str) -> str:
    return "; ".join(filter(None, reasons))


def _joined(pair: ModulePair, parts: Sequence[_Part], task: Task) -> ModuleResult:
    rows = tuple(part.row for part in parts)
    if not pair.parts:
        return ModuleResult(parts[0].adapter, rows)
    if not parts:
        return ModuleResult(None, (_row(pair, "skipped", "its update is zero", Measures()),))
    moved = {part.rows: part.adapter for part in parts}
    all_rows = [(own, moved.get(own)) for own in pair.parts]
    target = task.weights.of(None).seen_by(pair.adapter)[1]
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
