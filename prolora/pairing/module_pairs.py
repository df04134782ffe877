"""Which modules of a LoRA are moved to which weights of the target, and which stay behind."""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import ge
from typing import NoReturn

from ..adapters import Adapter, AdapterFile, VectorPatch
from ..errors import ProLoRAError
from ..models.architectures import UNKNOWN, guess_architecture
from ..models.model import Model
from ..models.module_names import is_text_encoder
from ..models.references import Slice, WeightRef
from ..naming.fused import holds
from .alignment import Alignment
from .module_tree import as_linear
from .target_locations import TargetLocation, target_locations


@dataclass(frozen=True)
class Pair:
    """One module of a LoRA: the weight that it was trained on, and the one it is moved to.

    Attributes:
        source: where the adapter's weight lies.
        source_shape, target_shape: of the weights, padded where the adapter pads them.
        name: of the target's module; "" for a part of a weight that its LoRAs cannot name.
        rows: of the source's weight and of its update, where the target has nothing but those; None
            for all.
    """

    adapter: Adapter
    source: WeightRef
    target: WeightRef
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    name: str
    rows: Slice | None = None


@dataclass(frozen=True)
class Unpaired:
    """A module that stays behind, and why.

    Attributes:
        width_differs: whether its weight has another width in the target.
    """

    name: str
    reason: str
    source: WeightRef | None = None
    target: WeightRef | None = None
    source_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()
    width_differs: bool = False


@dataclass(frozen=True)
class Pairing:
    """What is moved where.

    Attributes:
        replaced: see replaced_parts.
    """

    pairs: tuple[Pair, ...]
    unpaired: tuple[Unpaired, ...]
    replaced: Mapping[tuple[str, str], str]


def check_belongs(file: AdapterFile, source: Model) -> None:
    """Refuses a LoRA that was not trained on this checkpoint, as far as shapes and names tell.

    Raises:
        ProLoRAError: no module of it is in the source, or one has another shape there.
    """
    if not any(source.resolve(name) for name in file.module_names):
        raise ProLoRAError(
            f"The LoRA {file.name} {_made_for(file)}, but the source checkpoint {source.name} is "
            f"{source.architecture}: none of the LoRA's {len(file.module_names)} modules is in it "
            f"(the first is {file.module_names[0]}). {_advice(file, source)}"
            f"{source.hint and f' {source.hint}'}"
        )
    for adapter in file.adapters:
        place = source.resolve(adapter.name)
        shape = _padded(adapter, source.shape(place)) if place is not None else ()
        if len(shape) < 2:
            continue
        if not _fits(adapter, as_matrix(shape)):
            raise ProLoRAError(
                f"The LoRA {file.name} does not fit the source checkpoint {source.name} "
                f"({source.architecture}): its module {adapter.name} changes a weight of "
                f"{_by(adapter.delta_shape)}, and there the weight is {_by(as_matrix(shape))}. "
                f"This LoRA {_made_for(file)}. Choose the checkpoint it was trained on."
            )


def pair_modules(
    file: AdapterFile,
    source: Model,
    target: Model,
    alignment: Alignment,
    across_widths: bool = False,
) -> Pairing:
    """Pairs each module of a LoRA with what corresponds to it in the target.

    Args:
        across_widths: also where the two weights have other widths.
    """
    pairs: list[Pair] = []
    unpaired = [Unpaired(name, reason) for name, reason in file.left_out.items()]
    replaced = replaced_parts(file, source)
    for adapter in file.adapters:
        if identity(adapter) in replaced:
            unpaired.append(Unpaired(adapter.name, replaced[identity(adapter)]))
            continue
        for found in _places(adapter, source, target, alignment, across_widths):
            if isinstance(found, Pair):
                pairs.append(found)
            else:
                unpaired.append(found)
    return Pairing(tuple(pairs), tuple(unpaired), replaced)


def identity(part: Adapter | VectorPatch) -> tuple[str, str]:
    """What no other part of a file shares: the module's name, and a difference's role."""
    return part.name, part.role if isinstance(part, VectorPatch) else ""


def replaced_parts(file: AdapterFile, source: Model) -> dict[tuple[str, str], str]:
    """What changes a weight or bias that another part of the file changes too, and the reason.

    ComfyUI goes through its key map and keeps the last of them; a name that is not in it, it does
    not load at all. Parts of one weight that overlap are different places: it adds both.
    """
    order = {name: position for position, name in enumerate(source.key_map)}
    places: dict[tuple[WeightRef, bool], list[Adapter | VectorPatch]] = defaultdict(list)
    for part in file.contents:
        place = source.resolve(part.name)
        if place is not None:
            places[place, isinstance(part, VectorPatch) and part.of_bias].append(part)
    reasons: dict[tuple[str, str], str] = {}
    for same in places.values():
        last = max(same, key=lambda part: order.get(part.name, -1))
        reason = f"means the same weight as {last.name}, which ComfyUI loads in its place"
        reasons |= {identity(part): reason for part in same if part is not last}
    return reasons


def _places(
    adapter: Adapter,
    source: Model,
    target: Model,
    alignment: Alignment,
    across_widths: bool,
) -> list[Pair | Unpaired]:
    ref = source.resolve(adapter.name)
    if ref is None:
        return [Unpaired(adapter.name, f"not in the source {source.name}")]
    shape = _padded(adapter, source.shape(ref))
    if len(shape) < 2:
        return [Unpaired(adapter.name, "its weight is a vector, which has no subspaces", ref)]
    found = target_locations(adapter.name, source, target, alignment)
    if not found:
        return [_without(adapter.name, ref, shape, target, alignment)]
    return [_pair(adapter, ref, shape, place, target, across_widths) for place in found]


def _pair(
    adapter: Adapter,
    ref: WeightRef,
    shape: tuple[int, ...],
    found: TargetLocation,
    target: Model,
    across_widths: bool,
) -> Pair | Unpaired:
    place, rows = found.place, found.rows
    there = _padded(adapter, target.shape(place))
    ours = (rows.length, *shape[1:]) if rows is not None else shape
    reason = ""
    if (rows is not None or not found.name) and not adapter.is_divisible:
        family = f"{adapter.family} of a padded weight" if adapter.reshape else adapter.family
        reason = (
            f"the target has {place} for it, one is a fused weight and the other a part of one, "
            f"and a {family} cannot be divided or joined"
        )
    elif not _same_widths(ours, there):
        reason = _misfit(adapter, ours, there, across_widths)
    if not reason and not found.name and not _can_be_joined(place, target):
        reason = f"the target has {place} for it, which no name in its LoRAs' files means"
    if reason:
        kernels = as_linear(ours)[2:], as_linear(there)[2:]
        wider = ours[:2] != there[:2] and kernels[0] == kernels[1]
        return Unpaired(adapter.name, reason, ref, place, shape, there, wider)
    return Pair(adapter, ref, place, shape, there, found.name, rows)


def _can_be_joined(place: WeightRef, target: Model) -> bool:
    """Whether names of the target mean the weight that a part is of, or all of the part."""
    places = (named for _, named in target.names_of(place.key))
    return holds(places, place, target.weights.shape(place.key)[0])


def _misfit(
    adapter: Adapter, ours: tuple[int, ...], theirs: tuple[int, ...], across_widths: bool
) -> str:
    """Why a module cannot go to a weight of other widths; "" if it can."""
    both = f"{_by(ours)} in the source, {_by(theirs)} in the target"
    if as_linear(ours)[2:] != as_linear(theirs)[2:]:
        return f"kernels differ: {both}"
    reason = f"shapes differ: {both}"
    if not across_widths or len(theirs) < 2:
        return reason
    if adapter.reshape or not adapter.is_divisible:
        return f"{reason}, and a {adapter.family} cannot change its width"
    return ""


def _without(
    name: str,
    ref: WeightRef,
    shape: tuple[int, ...],
    target: Model,
    alignment: Alignment,
) -> Unpaired:
    """A module for which the target has nothing."""
    return Unpaired(name, why_without(name, ref, target, alignment), ref, None, shape)


def why_without(name: str, ref: WeightRef, target: Model, alignment: Alignment) -> str:
    """Why a module of the source has no counterpart, see counterparts.py."""
    block, same_name = alignment.unmatched_source.get(ref.key), target.resolve(name)
    if ref.key in alignment.links:
        return f"no part of a weight of the target {target.name} is what {ref} is in the source"
    if block is not None:
        return f"no block of the target {target.name} takes the source's {block}"
    if same_name is not None:
        served = alignment.source_of_target.get(same_name.key)
        if served is None:
            return f"its name means another module in the target {target.name}, {same_name}"
        other = f"the source's {served}" if served else "nothing"
        return f"its place in the target {target.name} takes {other}"
    advice = " (connect a CLIP to move text encoder modules)" if is_text_encoder(name) else ""
    return f"not in the target {target.name}{advice}"


def refuse_strangers(
    file: AdapterFile,
    source: Model,
    target: Model,
    alignment: Alignment,
    pairs: Iterable[Pair],
) -> None:
    """Raises an error where nothing but a name or two is the same in both architectures."""
    if source.architecture == target.architecture or all(map(is_text_encoder, file.module_names)):
        return
    shared = alignment.relates(len(file.module_names))
    if not shared and not any(is_text_encoder(pair.name) for pair in pairs):
        raise ProLoRAError(
            f"The LoRA {file.name} cannot be moved {_between(source, target)}: they have no blocks "
            "in common."
        )


def refuse_empty(
    file: AdapterFile,
    source: Model,
    target: Model,
    alignment: Alignment,
    reasons: list[str],
    widths: str,
) -> NoReturn:
    """Raises the error for a LoRA of which nothing can be moved.

    Args:
        reasons: a line for each module; one at least.
        widths: in which the two differ, see other_widths; "" where that is no reason.
    """
    between = _between(source, target)
    if widths:
        raise ProLoRAError(
            f"Nothing of the LoRA {file.name} can be moved {between}: their widths differ "
            f"({widths}). Choose a target of the source's width, or mode align, which is "
            "experimental."
        )
    advice = "Look at the pairs" if alignment.given else "Choose a target built like the source"
    if not file.contents:
        advice = (
            "Merge it into its model with the tool that made it, and extract a LoRA from the two"
        )
    raise ProLoRAError(
        f"Nothing of the LoRA {file.name} can be moved {between}. "
        f"{len(reasons)} modules were looked at; the first: {reasons[0]}. {advice}."
    )


def _between(source: Model, target: Model) -> str:
    return f"from {source.name} ({source.architecture}) to {target.name} ({target.architecture})"


def _advice(file: AdapterFile, source: Model) -> str:
    guess = guess_architecture(file.module_names)
    if guess == source.architecture != UNKNOWN:
        return (
            "These names are not known here: update ComfyUI, or use a copy of this LoRA in "
            "kohya's naming."
        )
    return "Choose the checkpoint it was trained on."


def _made_for(file: AdapterFile) -> str:
    guess = guess_architecture(file.module_names)
    return "was made for an architecture unknown here" if guess == UNKNOWN else f"is for {guess}"


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """m, n of a weight, a convolution flattened to out x (in * kh * kw)."""
    return shape[0], math.prod(shape[1:])


def _fits(adapter: Adapter, matrix: tuple[int, int]) -> bool:
    sides = zip(adapter.delta_shape, matrix, strict=True)
    return all(wanted in (None, side) for wanted, side in sides)


def _padded(adapter: Adapter, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape of a weight as the adapter sees it; see Adapter.reshape."""
    larger = adapter.reshape
    holds = len(larger) == len(shape) and all(map(ge, larger, shape))
    return larger if holds else shape


def _same_widths(ours: tuple[int, ...], theirs: tuple[int, ...]) -> bool:
    return as_linear(ours) == as_linear(theirs)


def _by(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if side is None else str(side) for side in shape)
