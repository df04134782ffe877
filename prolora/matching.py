"""Which source module serves which target module: by name, for models of one architecture."""

import math
from dataclasses import dataclass

from .adapters import Adapter, AdapterFile
from .architectures import UNKNOWN, guess_architecture
from .errors import ProLoRAError
from .weights import Model, WeightRef


@dataclass(frozen=True)
class Pair:
    """One module of a LoRA: the weight that it was trained on, and the one it is moved to."""

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
    pairs: tuple[Pair, ...]
    unpaired: tuple[Unpaired, ...]


def check_belongs(file: AdapterFile, source: Model) -> None:
    """Refuses a LoRA that was not trained on this checkpoint, as far as shapes and names tell.

    Raises:
        ProLoRAError: no module of it is in the source, or one has another shape there.
    """
    adapters = [adapter for adapter in file.adapters if adapter.name in source.key_map]
    if not any(name in source.key_map for name in file.module_names):
        raise ProLoRAError(
            f"The LoRA {file.name} {_made_for(file)}, but the source checkpoint {source.name} is "
            f"{source.architecture}: none of the LoRA's {len(file.module_names)} modules is in it "
            f"(the first is {file.module_names[0]}). Choose the checkpoint it was trained on."
        )
    for adapter in adapters:
        shape = source.shape(source.key_map[adapter.name])
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
        ProLoRAError: the LoRA does not belong to the source (see check_belongs), or nothing can be
            paired.
    """
    check_belongs(file, source)
    pairs: list[Pair] = []
    unpaired = [Unpaired(name, reason) for name, reason in file.left_out.items()]
    for adapter in file.adapters:
        found = _pair(adapter, source, target)
        if isinstance(found, Pair):
            pairs.append(found)
        else:
            unpaired.append(found)
    if not pairs:
        _refuse(file, source, target, unpaired)
    return Pairing(tuple(pairs), tuple(unpaired))


def _pair(adapter: Adapter, source: Model, target: Model) -> Pair | Unpaired:
    source_ref, target_ref = source.key_map.get(adapter.name), target.key_map.get(adapter.name)
    if source_ref is None:
        return Unpaired(adapter.name, f"not in the source {source.name}")
    source_shape = source.shape(source_ref)
    if target_ref is None:
        reason = f"not in the target {target.name}"
        if _is_text_encoder(adapter.name):
            reason += " (connect a CLIP to move text encoder modules)"
        return Unpaired(adapter.name, reason, source_ref, None, source_shape)
    target_shape = target.shape(target_ref)
    if _as_linear(source_shape) != _as_linear(target_shape):
        reason = (
            f"shapes differ: {_by(source_shape)} in the source, {_by(target_shape)} in the target"
        )
        return Unpaired(adapter.name, reason, source_ref, target_ref, source_shape, target_shape)
    return Pair(adapter, source_ref, target_ref, source_shape, target_shape)


def _refuse(file: AdapterFile, source: Model, target: Model, unpaired: list[Unpaired]) -> None:
    reasons = [f"{module.name}: {module.reason}" for module in unpaired]
    raise ProLoRAError(
        f"Nothing of the LoRA {file.name} can be moved from {source.name} "
        f"({source.architecture}) to {target.name} ({target.architecture}). "
        f"{len(reasons)} modules were looked at; the first: {reasons[0]}. Choose a target of the "
        "source's architecture and size."
    )


def _made_for(file: AdapterFile) -> str:
    guess = guess_architecture(file.module_names)
    return "was made for an architecture unknown here" if guess == UNKNOWN else f"is for {guess}"


def _is_text_encoder(name: str) -> bool:
    return name.startswith(("lora_te", "text_encoder", "lora_prior_te"))


def as_matrix(shape: tuple[int, ...]) -> tuple[int, int]:
    """m, n of a weight, a convolution flattened to out x (in * kh * kw)."""
    return shape[0], math.prod(shape[1:])


def _fits(adapter: Adapter, matrix: tuple[int, int]) -> bool:
    sides = zip(adapter.delta_shape, matrix, strict=True)
    return all(wanted in (None, side) for wanted, side in sides)


def _as_linear(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 1x1 convolution is a linear layer: SD1.x has the one where SD2.x has the other."""
    return shape[:2] if set(shape[2:]) == {1} else shape


def _by(shape: tuple[int | None, ...]) -> str:
    return " x ".join("any" if side is None else str(side) for side in shape)
