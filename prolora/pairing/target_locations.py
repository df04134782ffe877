"""Where in the target the update of a module goes, and how the target's LoRAs call that place."""

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
    """A place in the target for a module of the source.

    Attributes:
        name: of the place in the target's key map; "" for a part of a weight that has none there.
        rows: of the module's update that go there; None for all of them.
    """

    place: WeightRef
    name: str
    rows: Slice | None = None


def target_locations(
    name: str, ref: WeightRef, source: Model, target: Model, alignment: Alignment
) -> tuple[TargetLocation, ...]:
    """The places for a module of the source; none where nothing corresponds.

    More than one where the target splits what the source has fused, or where a user says so.

    Args:
        name, ref: of the module, in the file and in the source.
    """
    same_name = target.resolve(name)
    if ref.key in alignment.links:
        found = [_location(name, ref, link, source, target) for link in alignment.links[ref.key]]
        return tuple(location for location in found if location is not None)
    if same_name is None or ref.key in alignment.unmatched_source:
        return ()
    served = alignment.source_of_target.get(same_name.key)
    if served is None and not is_text_encoder(name):
        return ()  # to another architecture one name may mean what is nothing like it
    if served is not None and not _lies_in(path_of(source, ref.key), served):
        return ()
    return (TargetLocation(same_name, name),)


def _lies_in(path: str, module: str) -> bool:
    return f"{path}.".startswith(f"{module}.")


def _location(
    name: str, ref: WeightRef, link: Link, source: Model, target: Model
) -> TargetLocation | None:
    if link.source_rows is None and link.target_rows is None:
        part, rows = _scaled(name, ref, link, source, target), None
        if ref.part is not None and part is None:
            return None
    else:
        spans = _through(ref, link, source, target)
        if spans is None:
            return None
        part, rows = spans
    place, own_name = _named(name, WeightRef(link.target, part, ref.halves_swapped), target)
    return TargetLocation(place, own_name, rows)


def _scaled(name: str, ref: WeightRef, link: Link, source: Model, target: Model) -> Slice | None:
    """A part of the source's weight as the part of the target's, which may have another width.

    Then it is the part that the target has by that name, or one of as many equal parts; None where
    neither is known: q, k and v need not be of one length.
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


def _through(
    ref: WeightRef, link: Link, source: Model, target: Model
) -> tuple[Slice | None, Slice | None] | None:
    """The target's part, and the rows of the update, where one side is fused and the other split.

    None where the module lies in other rows than those that the link is about.
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


def _named(name: str, place: WeightRef, target: Model) -> tuple[WeightRef, str]:
    """A place as the key map has it, with the name there that is spelled most like `name`."""
    known = dict(_names(place, target))
    same = target.resolve(name)
    # The order that its rows are stored in is each model's own: the name is what means the same.
    if same is not None and (same.key, same.part) == (place.key, place.part):
        return same, name
    if not known:
        return place, ""
    best = closest_name(name, known)
    return known[best], best


def closest_name(name: str, others: Iterable[str]) -> str:
    """That of several names that begins most like another one, whatever the numbers in them."""
    wanted = _NUMBER.sub("0", name)
    return max(others, key=lambda other: (_common(wanted, _NUMBER.sub("0", other)), -len(other)))


def _common(name: str, other: str) -> int:
    """How many letters two names begin with alike."""
    letters = zip(name, other, strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], letters))


def _names(place: WeightRef, target: Model) -> Iterator[tuple[str, WeightRef]]:
    for name, ref in target.names_of(place.key):
        if ref.part == place.part and ref.halves_swapped == place.halves_swapped:
            yield name, ref
