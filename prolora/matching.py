"""Which source module serves which target module: by name, for models of one architecture."""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from operator import ge
from typing import NoReturn

from .adapters import Adapter, AdapterFile, Difference
from .architectures import UNKNOWN, guess_architecture
from .errors import ProLoRAError
from .module_names import is_text_encoder
from .weights import Model, WeightRef


@dataclass(frozen=True)
class Pair:
    """One module of a LoRA: the weight that it was trained on, and the one it is moved to.

    Attributes:
        source_shape, target_shape: of the weights, padded where the adapter pads them.
    """

    adapter: Adapter
    source: WeightRef
    target: WeightRef
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]


@dataclass(frozen=True)
class Unpaired:
    """A module that stays behind, and why."""

    name: str
    reason: str
    source: WeightRef | None = None
    target: WeightRef | None = None
    source_shape: tuple[int, ...] = ()
    target_shape: tuple[int, ...] = ()


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
    if not any(source.find(name) for name in file.module_names):
        raise ProLoRAError(
            f"The LoRA {file.name} {_made_for(file)}, but the source checkpoint {source.name} is "
            f"{source.architecture}: none of the LoRA's {len(file.module_names)} modules is in it "
            f"(the first is {file.module_names[0]}). {_advice(file, source)}"
            f"{source.hint and f' {source.hint}'}"
        )
    for adapter in file.adapters:
        place = source.find(adapter.name)
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


def pair_by_name(file: AdapterFile, source: Model, target: Model) -> Pairing:
    """Pairs each module of a LoRA with the target's module of the same name.

    Raises:
        ProLoRAError: the LoRA does not belong to the source; see check_belongs.
    """
    check_belongs(file, source)
    pairs: list[Pair] = []
    unpaired = [Unpaired(name, reason) for name, reason in file.left_out.items()]
    replaced = replaced_parts(file, source)
    for adapter in file.adapters:
        if identity(adapter) in replaced:
            unpaired.append(Unpaired(adapter.name, replaced[identity(adapter)]))
            continue
        found = _pair(adapter, source, target)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            unpaired.append(found)
    return Pairing(tuple(pairs), tuple(unpaired), replaced)


def identity(part: Adapter | Difference) -> tuple[str, str]:
    """What no other part of a file shares: the module's name, and a difference's role."""
    return part.name, part.role if isinstance(part, Difference) else ""


def replaced_parts(file: AdapterFile, source: Model) -> dict[tuple[str, str], str]:
    """What changes a weight or bias that another part of the file changes too, and the reason.

    ComfyUI goes through its key map and keeps the last of them; a name that is not in it, it does
    not load at all. Parts of one weight that overlap are different places: it adds both.
    """
    order = {name: position for position, name in enumerate(source.key_map)}
    places: dict[tuple[WeightRef, bool], list[Adapter | Difference]] = defaultdict(list)
    for part in file.contents:
        place = source.find(part.name)
        if place is not None:
            places[place, isinstance(part, Difference) and part.of_bias].append(part)
    reasons: dict[tuple[str, str], str] = {}
    for same in places.values():
        last = max(same, key=lambda part: order.get(part.name, -1))
        reason = f"means the same weight as {last.name}, which ComfyUI loads in its place"
        reasons |= {identity(part): reason for part in same if part is not last}
    return reasons


def _pair(adapter: Adapter, source: Model, target: Model) -> Pair | Unpaired:
    source_ref, target_ref = source.find(adapter.name), target.find(adapter.name)
    if source_ref is None:
        return Unpaired(adapter.name, f"not in the source {source.name}")
    source_shape = _padded(adapter, source.shape(source_ref))
    if len(source_shape) < 2:
        return Unpaired(adapter.name, "its weight is a vector, which has no subspaces", source_ref)
    if target_ref is None:
        reason = f"not in the target {target.name}"
        if is_text_encoder(adapter.name):
            reason += " (connect a CLIP to move text encoder modules)"
        return Unpaired(adapter.name, reason, source_ref, None, source_shape)
    target_shape = _padded(adapter, target.shape(target_ref))
    if _as_linear(source_shape) != _as_linear(target_shape):
        reason = (
            f"shapes differ: {_by(source_shape)} in the source, {_by(target_shape)} in the target"
        )
        return Unpaired(adapter.name, reason, source_ref, target_ref, source_shape, target_shape)
    return Pair(adapter, source_ref, target_ref, source_shape, target_shape)


def refuse_empty(file: AdapterFile, source: Model, target: Model, reasons: list[str]) -> NoReturn:
    """Raises the error for a LoRA of which nothing can be moved.

    Args:
        reasons: a line for each module; one at least.
    """
    raise ProLoRAError(
        f"Nothing of the LoRA {file.name} can be moved from {source.name} "
        f"({source.architecture}) to {target.name} ({target.architecture}). "
        f"{len(reasons)} modules were looked at; the first: {reasons[0]}. Choose a target of the "
        "source's architecture and size."
    )


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


def _as_linear(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 1x1 convolution is a linear layer: SD1.x has the one where SD2.x has the other."""
    return shape[:2] if set(shape[2:]) == {1} else shape


def _by(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if side is None else str(side) for side in shape)
