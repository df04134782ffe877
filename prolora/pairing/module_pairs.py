"""Module pairs: the target weight that a LoRA's module moves to, or why it stays behind."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from operator import ge

from ..adapters import Adapter
from ..models.model import Model
from ..models.module_names import is_text_encoder
from ..models.references import Slice, WeightRef
from ..naming.fused import holds
from .alignment import Alignment
from .module_tree import as_linear
from .target_locations import TargetLocation, target_locations


@dataclass(frozen=True)
class ResolvedAdapter:
    """An adapter and the source weight that it was trained on.

    Attributes:
        adapter: the adapter, as its file has it.
        ref: where its weight lies in the source.
        shape: the weight's shape as the adapter sees it; see Adapter.reshape.
    """

    adapter: Adapter
    ref: WeightRef
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ModulePair:
    """A module of a LoRA: the weight that it was trained on, and the weight that it moves to.

    Attributes:
        adapter: the adapter, as its file has it.
        source, target: where the two weights lie.
        source_shape, target_shape: of the weights, padded where the adapter pads them.
        name: the target module's name; "" for a part of a weight that has no name there.
        rows: the rows of the source weight, and of its update, that the target has a place for;
            None for all rows.
        parts: the rows of the target weight, divided into the finest parts of the fused weight
            that either model has names for. Each part moves by itself, so one update gives one
            result, whether the file has it as qkv or as q, k and v. () for a weight that is not
            fused.
        joins: whether its update must be joined with others of the same weight in the end: its part
            has no name of its own, or another module goes to the same place.
        shared_from: the source's block, where the target's is one that nothing serves and this is a
            share of a neighbour's; "" for a block that is served.
    """

    adapter: Adapter
    source: WeightRef
    target: WeightRef
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    name: str
    rows: Slice | None = None
    parts: tuple[Slice, ...] = ()
    joins: bool = False
    shared_from: str = ""


@dataclass(frozen=True)
class Unpaired:
    """A module that stays behind, and why.

    Attributes:
        name: the module's name in the LoRA file.
        reason: why it stays behind, for the report.
        source, target: where the two weights lie; None where there is none.
        source_shape, target_shape: of the two weights; () where there is none.
        width_differs: whether the two weights differ in width and not in kernel.
    """

    name: str
    reason: str
    source: WeightRef | None = None
    target: WeightRef | None = None
    source_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    width_differs: bool = False


def pairs_of(
    module: ResolvedAdapter,
    source: Model,
    target: Model,
    alignment: Alignment,
    across_widths: bool = False,
) -> list[ModulePair | Unpaired]:
    """Pairs a module of a LoRA with every place that the target has for it.

    Args:
        module: the module, with its weight in the source.
        source, target: the two models.
        alignment: which weights of the two belong together.
        across_widths: pair weights of different widths too.
    """
    adapter, ref = module.adapter, module.ref
    if len(module.shape) < 2:
        return [Unpaired(adapter.name, "its weight is a vector, which has no subspaces", ref)]
    locations = target_locations(adapter.name, ref, source, target, alignment)
    if not locations:
        reason = why_without(adapter.name, ref, target, alignment)
        return [Unpaired(adapter.name, reason, ref, None, module.shape)]
    return [_pair(module, location, source, target, across_widths) for location in locations]


def _pair(
    module: ResolvedAdapter,
    location: TargetLocation,
    source: Model,
    target: Model,
    across_widths: bool,
) -> ModulePair | Unpaired:
    adapter, place, rows = module.adapter, location.place, location.rows
    there = padded(adapter, target.shape(place))
    ours = (rows.length, *module.shape[1:]) if rows is not None else module.shape
    reason = _why_not(adapter, location, ours, there, target, across_widths)
    if reason:
        kernels = as_linear(ours)[2:], as_linear(there)[2:]
        width_differs = ours[:2] != there[:2] and kernels[0] == kernels[1]
        shapes = module.shape, there
        return Unpaired(adapter.name, reason, module.ref, place, *shapes, width_differs)
    pair = ModulePair(adapter, module.ref, place, module.shape, there, location.name, rows)
    if not adapter.has_divisible_rows or ours[0] != there[0]:
        return pair
    skipped = rows.start if rows is not None else 0
    parts = finest_parts(source, module.ref, target, place, there[0], skipped)
    return replace(pair, parts=parts)


def _why_not(
    adapter: Adapter,
    location: TargetLocation,
    ours: tuple[int, ...],
    there: tuple[int, ...],
    target: Model,
    across_widths: bool,
) -> str:
    """Why a module cannot move to a place; "" if it can."""
    place = location.place
    if (location.rows is not None or not location.name) and not adapter.is_divisible:
        family = f"{adapter.family} of a padded weight" if adapter.reshape else adapter.family
        return (
            f"the target has {place} for it, one is a fused weight and the other a part of one, "
            f"and a {family} cannot be divided or joined"
        )
    if as_linear(ours) != as_linear(there):
        reason = _misfit(adapter, ours, there, across_widths)
        if reason:
            return reason
    if not location.name and not _can_be_joined(place, target):
        return f"the target has {place} for it, which no name in its LoRAs' files means"
    return ""


def finest_parts(
    source: Model, ours: WeightRef, target: Model, theirs: WeightRef, rows: int, skipped: int = 0
) -> tuple[Slice, ...]:
    """The rows of a target's weight between all ends of parts that names of either model mean.

    Args:
        ours, theirs: the two weights, or the parts of them that belong together.
        rows: of either.
        skipped: rows of ours that come before those.

    Returns:
        The parts, one after the other; () where there is no end but the last.
    """
    for ref in (ours, theirs):
        if ref.halves_swapped or (ref.part is not None and ref.part.dim != 0):
            return ()
    ends = {end - _first(ours) - skipped for end in _ends_of_parts(source, ours.key)}
    ends |= {end - _first(theirs) for end in _ends_of_parts(target, theirs.key)}
    cuts = [0, *sorted(end for end in ends if 0 < end < rows), rows]
    if len(cuts) == 2:
        return ()
    return tuple(Slice(dim=0, start=a, length=b - a) for a, b in pairwise(cuts))


def _first(ref: WeightRef) -> int:
    return ref.part.start if ref.part is not None else 0


def _ends_of_parts(model: Model, key: str) -> Iterator[int]:
    for _, ref in model.names_of(key):
        if ref.part is not None and ref.part.dim == 0:
            yield from (ref.part.start, ref.part.start + ref.part.length)


def _can_be_joined(place: WeightRef, target: Model) -> bool:
    """Whether the target has names for the whole weight of a part, or for all rows of the part."""
    places = (named for _, named in target.names_of(place.key))
    return holds(places, place, target.weights.shape(place.key)[0])


def _misfit(
    adapter: Adapter, ours: tuple[int, ...], theirs: tuple[int, ...], across_widths: bool
) -> str:
    """Why a module cannot move to a weight of another shape; "" if it can."""
    both = f"{by(ours)} in the source, {by(theirs)} in the target"
    if as_linear(ours)[2:] != as_linear(theirs)[2:]:
        return f"kernels differ: {both}"
    reason = f"shapes differ: {both}"
    if not across_widths or len(theirs) < 2:
        return reason
    if adapter.reshape or not adapter.is_divisible:
        return f"{reason}, and a {adapter.family} cannot change its width"
    return ""


def mark_joins(pairs: Sequence[ModulePair]) -> list[ModulePair]:
    """The same pairs, with `joins` set for those that it is true of."""
    uses = Counter((pair.target.key, pair.target.part) for pair in pairs)
    keys = {
        pair.target.key
        for pair in pairs
        if not pair.name or uses[pair.target.key, pair.target.part] > 1
    }
    return [replace(pair, joins=pair.target.key in keys) for pair in pairs]


def why_without(name: str, ref: WeightRef, target: Model, alignment: Alignment) -> str:
    """Why a source module has no target location; see target_locations.py."""
    block, same_name = alignment.unmatched_source.get(ref.key), target.resolve(name)
    if ref.key in alignment.links:
        return f"no part of a weight of the target {target.name} is what {ref} is in the source"
    if block is not None:
        return f"no block of the target {target.name} takes the source's {block}"
    if same_name is not None:
        taken = alignment.source_of_target.get(same_name.key)
        if taken is None:
            return f"its name means another module in the target {target.name}, {same_name}"
        other = f"the source's {taken}" if taken else "nothing"
        return f"its place in the target {target.name} takes {other}"
    advice = " (connect a CLIP to move text encoder modules)" if is_text_encoder(name) else ""
    return f"not in the target {target.name}{advice}"


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """m, n of a weight; a convolution is flattened to out x (in * kh * kw)."""
    return shape[0], math.prod(shape[1:])


def padded(adapter: Adapter, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight as the adapter sees it; see Adapter.reshape."""
    larger = adapter.reshape
    holds_it = len(larger) == len(shape) and all(map(ge, larger, shape))
    return larger if holds_it else shape


def by(shape: tuple[int | None, ...]) -> str:
    """A shape as text, such as 16 x 8; None is a side of any size."""
    return " x ".join("any" if side is None else str(side) for side in shape)
