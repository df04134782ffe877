"""A share for blocks that nothing serves: of the updates that their neighbours take.

A deepened child has blocks that no block of the source serves, made of their neighbours: copies, or
means. Each module of such a block takes the mean of what the same modules of the nearest served
blocks before and after it become on its own weight, times a strength. A neighbour whose weight is
less similar than the threshold does not count. So a copy takes its model's update alone, and a mean
of two the mean of theirs.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from ..adapters import Adapter, FullDifference
from ..adapters.adapter import Retargeted
from ..adapters.dora import DoraAdapter
from ..adapters.lora import moved_lora
from ..algebra.updates import DenseUpdate, LowRankUpdate
from ..models.model import Model
from ..models.references import Slice
from ..pairing.alignment import Alignment
from ..pairing.module_pairs import ModulePair, ResolvedAdapter, Unpaired, pairs_of
from ..pairing.module_tree import path_of
from .report import ModuleReport
from .tasks import ModuleResult

Result = tuple[ModulePair, ModuleResult]
Results = Sequence[Result]


def pairs_of_share(
    module: ResolvedAdapter,
    source: Model,
    target: Model,
    neighbour: Alignment,
    across_widths: bool,
) -> Iterator[ModulePair | Unpaired]:
    """A module with every place that it has in blocks that nothing serves.

    Args:
        neighbour: of such blocks with the source's blocks that serve their neighbours on one side.
    """
    if module.ref.key not in neighbour.links:
        return
    for pair in pairs_of(module, source, target, neighbour, across_widths):
        if isinstance(pair, Unpaired):
            yield pair
        elif isinstance(module.adapter, DoraAdapter):
            reason = "a DoRA, whose magnitude is of one weight, is not shared"
            shapes = pair.source_shape, pair.target_shape
            yield Unpaired(module.adapter.name, reason, pair.source, pair.target, *shapes)
        else:
            yield replace(pair, shared_from=_serving(path_of(target, pair.target.key), neighbour))


def _serving(path: str, neighbour: Alignment) -> str:
    """The source block of the target block that a module lies in."""
    served = neighbour.given.items()
    return next(ours or "" for block, ours in served if path.startswith(f"{block}."))


def share(results: Results, strength: float, rank: int) -> list[Result]:
    """The same results, with one adapter for each place of a block that nothing serves.

    Args:
        strength: of the mean of what its neighbours share.
        rank: of it; 0 for the largest of theirs.
    """
    places: dict[tuple[str, Slice | None], list[Result]] = defaultdict(list)
    for pair, result in results:
        if pair.shared_from:
            places[pair.target.key, pair.target.part].append((pair, result))
    served = [(pair, result) for pair, result in results if not pair.shared_from]
    return served + [one for group in places.values() for one in _shared(group, strength, rank)]


def _shared(group: Results, strength: float, rank: int) -> Iterator[Result]:
    moved = [result.adapter for _, result in group if result.adapter is not None]
    part = strength / max(len(moved), 1)
    mean = _sum(moved, part, rank, group[0][0]) if moved else None
    for i, (pair, result) in enumerate(group):
        rows = [replace(row, shared_from=pair.shared_from) for row in result.rows]
        if mean is None:
            yield pair, ModuleResult(None, tuple(map(_left, rows)))
            continue
        taken = (row for row in rows if row.status != "skipped")  # the others do not count
        adapter = mean.adapter if i == 0 else None
        yield pair, ModuleResult(adapter, tuple(_taken(row, part, mean) for row in taken))


def _sum(moved: Sequence[Adapter], part: float, rank: int, pair: ModulePair) -> Retargeted:
    """The sum of so much of each, exact but for the cut to a rank: LoRAs and full differences."""
    updates = [adapter.update(torch.empty(0)) for adapter in moved]
    low_rank = [update for update in updates if isinstance(update, LowRankUpdate)]
    if len(low_rank) < len(updates):
        delta = part * torch.stack([update.delta for update in updates]).sum(dim=0)
        whole = FullDifference(pair.adapter.name, delta.reshape(pair.target_shape))
        return Retargeted(whole, DenseUpdate(delta).energy(), dropped=0.0)
    total = LowRankUpdate(
        torch.cat([part * update.up for update in low_rank], dim=1),
        torch.cat([update.down for update in low_rank]),
    )
    rank = rank or max(adapter.rank for adapter in moved)
    inputs = pair.target_shape[1:]
    return moved_lora(pair.adapter.name, total, rank, inputs, pair.adapter.reshape)


def _left(row: ModuleReport) -> ModuleReport:
    return replace(row, reason=f"{row.reason}, for a block that nothing serves")


def _taken(row: ModuleReport, part: float, mean: Retargeted) -> ModuleReport:
    reason = "; ".join(filter(None, (f"{part:g} of what goes to its neighbour", row.reason)))
    dropped = max(row.energy_dropped, mean.dropped)
    rank = mean.adapter.rank
    return replace(row, status="shared", reason=reason, rank_out=rank, energy_dropped=dropped)
