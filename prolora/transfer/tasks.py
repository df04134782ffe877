"""One task: the updates that move between one pair of weights, each with its row of the report."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..adapters import Adapter
from ..algebra.kept import NOTHING_KEPT, Forgetful
from ..algebra.leading import bytes_at_work
from ..lazy import lazy
from ..models.model import Model
from ..models.references import Slice
from ..pairing.module_pairs import ModulePair, as_matrix
from .joining import join_rows
from .maps import Maps, PairMaps
from .parts import (
    Part,
    copied_part,
    moved_part,
    own_for_target,
    own_tensors,
    part_of,
    reaches,
    row_of,
    said,
    update_of,
)
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
        is_own: whether the adapter has the tensors of the LoRA's file.
    """

    adapter: Adapter | None
    rows: tuple[ModuleReport, ...]
    is_own: bool = False


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
    """Modules by the maps of their weights, each part of a fused weight by itself."""
    task, settings = begun.task, begun.task.settings
    maps = [next(found) if part.moves else None for part in begun.parts]
    keeps = settings.chosen_mode.as_it_is and all(
        of_part is None or reaches(of_part.measures, settings) for of_part in maps
    )
    results = []
    for pair in pairs:
        own = own_for_target(pair, task.weights) if keeps else None
        every = zip(begun.parts, maps, strict=True)
        parts = [_part(pair, rows, of_part, own) for rows, of_part in every]
        results.append(_joined(pair, [part for part in parts if part is not None], task, own))
    return results


def _part(pair: ModulePair, rows: _Rows, maps: PairMaps | None, own: Adapter | None) -> Part | None:
    """What becomes of some rows of a module; None where the LoRA has nothing for them."""
    of_rows = part_of(pair, rows.rows)
    update = update_of(of_rows, rows.weights)
    if update is None:
        return None
    if maps is None:
        return copied_part(of_rows, update, rows.why, rows.weights, own)
    return moved_part(of_rows, update, maps, rows.weights, own)


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
    own = own_tensors(pair, task.settings)
    if own is None:
        return None
    row = row_of(pair, "copied", said(why, pair.adapter.note), Measures(), rank_out=own.rank)
    return ModuleResult(own, (row,), is_own=True)


def _joined(
    pair: ModulePair, parts: Sequence[Part], task: Task, own: Adapter | None
) -> ModuleResult:
    """A module of its parts.

    Args:
        own: with its own tensors, where it keeps them.
    """
    told = tuple(part.row for part in parts)
    if pair.parts and not parts:
        return ModuleResult(None, (row_of(pair, "skipped", "its update is zero", Measures()),))
    if own is not None:
        return ModuleResult(own, told, is_own=True)
    if not pair.parts:
        return ModuleResult(parts[0].adapter, told)
    moved = {part.rows: part.adapter for part in parts}
    all_rows = [(rows, moved.get(rows)) for rows in pair.parts]
    target = task.weights.of(None).seen_by(pair.adapter)[1]
    return ModuleResult(join_rows(pair.adapter, all_rows, target), told)
