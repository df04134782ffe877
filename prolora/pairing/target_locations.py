"""Target locations: where in the target a module's update goes, and which name it has there."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from ..models.model import Model
from ..models.module_names import is_text_encoder
from ..models.references import Slice, WeightRef
from .alignment import Alignment, Link
from .module_tree import path_of

_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class TargetLocation:
    """A place in the target for the update of a source module.

    Attributes:
        place: the target weight, or the part of it.
        name: the place's name in the target's key map; "" for a part that has no name there.
        rows: the rows of the module's update that go there; None for all rows.
    """

    place: WeightRef
    name: str
    rows: Slice | None = None


def target_locations(
    name: str, ref: WeightRef, source: Model, target: Model, alignment: Alignment
) -> tuple[TargetLocation, ...]:
    """The places in the target for a source module.

    There are none where the target has no weight for it, and several where the target splits a
    weight that is fused in the source, or where the user paired it with several modules.

    Args:
        name: the module's name in the LoRA file.
        ref: the module's weight in the source.
        source, target: the two models.
        alignment: which weights of the two belong together.
    """
    same_name = target.resolve(name)
    if ref.key in alignment.links:
        found = [_location(name, ref, link, source, target) for link in alignment.links[ref.key]]
        return tuple(location for location in found if location is not None)
    if same_name is None or ref.key in alignment.unmatched_source:
        return ()
    taken = alignment.source_of_target.get(same_name.key)
    if taken is None and not is_text_encoder(name):
        return ()  # in another architecture the same name may mean another module
    if taken is not None and not _lies_in(path_of(source, ref.key), taken):
        return ()
    return (TargetLocation(same_name, name),)


def _lies_in(path: str, module: str) -> bool:
    return f"{path}.".startswith(f"{module}.")


def _location(
    name: str, ref: WeightRef, link: Link, source: Model, target: Model
) -> TargetLocation | None:
    if link.source_rows is None and link.target_rows is None:
        part, rows = _target_part(name, ref, link, source, target), None
        if ref.part is not None and part is None:
            return None
    else:
        spans = _linked_rows(ref, link, source, target)
        if spans is None:
            return None
        part, rows = spans
    place, own_name = _with_name(name, WeightRef(link.target, part, ref.halves_swapped), target)
    return TargetLocation(place, own_name, rows)


def _target_part(
    name: str, ref: WeightRef, link: Link, source: Model, target: Model
) -> Slice | None:
    """The part of the target's weight that is `ref.part` of the source's.

    Where the widths differ, it is the part with the same name in the target. Without such a name
    both weights must divide into the same number of equal parts; None where they do not (q, k and
    v may differ in length), or where `ref` has no part.
    """
    part, same = ref.part, target.resolve(name)
    if part is None:
        return None
    here, there = source.weights.shape(link.source), target.weights.shape(link.target)
    if part.dim >= len(there):
        return None
    ours, theirs = here[part.dim], there[part.dim]
    if ours == theirs:
        return part
    if same is not None and same.key == link.target and same.part is not None:
        return same.part if same.part.dim == part.dim else None
    if part.start % part.length or ours % part.length or theirs % (ours // part.length):
        return None
    length = theirs // (ours // part.length)
    return Slice(part.dim, part.start // part.length * length, length)


def _linked_rows(
    ref: WeightRef, link: Link, source: Model, target: Model
) -> tuple[Slice | None, Slice | None] | None:
    """The part of the target's weight and the rows of the update, for a link between rows.

    None where the module has none of the rows that are linked.
    """
    whole = range(source.weights.shape(link.source)[0])
    there = range(target.weights.shape(link.target)[0])
    if ref.part is not None and ref.part.dim != 0:
        return None
    own, linked = _span(ref.part, whole), _span(link.source_rows, whole)
    start, stop = max(own.start, linked.start), min(own.stop, linked.stop)
    if start >= stop:
        return None
    first = _span(link.target_rows, there).start + start - linked.start
    part, rows = range(first, first + stop - start), range(start - own.start, stop - own.start)
    return _slice(part, there), _slice(rows, range(len(own)))


def _span(part: Slice | None, whole: range) -> range:
    return whole if part is None else range(part.start, part.start + part.length)


def _slice(span: range, whole: range) -> Slice | None:
    return None if span == whole else Slice(dim=0, start=span.start, length=len(span))


def _with_name(name: str, place: WeightRef, target: Model) -> tuple[WeightRef, str]:
    """A place as the target's key map has it, and the name there that is closest to `name`."""
    known = dict(_names(place, target))
    same = target.resolve(name)
    # Each model stores the rows in its own order, so the name decides, not halves_swapped.
    if same is not None and (same.key, same.part) == (place.key, place.part):
        return same, name
    if not known:
        return place, ""
    best = closest_name(name, known)
    return known[best], best


def closest_name(name: str, others: Iterable[str]) -> str:
    """The name of `others` with the longest common beginning, where all numbers count as equal."""
    pattern = _NUMBER.sub("0", name)
    return max(others, key=lambda other: (_common(pattern, _NUMBER.sub("0", other)), -len(other)))


def _common(name: str, other: str) -> int:
    """The length of the common beginning of two names."""
    letters = zip(name, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], letters))


def _names(place: WeightRef, target: Model) -> Iterator[tuple[str, WeightRef]]:
    for name, ref in target.names_of(place.key):
        if ref.part == place.part and ref.halves_swapped == place.halves_swapped:
            yield name, ref
