"""A model without its weights: names and shapes, as a recording of it keeps them."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch

from ..errors import ProLoRAError
from .model import Model
from .references import Slice, WeightRef


class OutlineWeights:
    """The shapes of a model's weights; see Weights.

    Attributes:
        name: the model's, for messages.
    """

    def __init__(self, name: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.name, self._shapes = name, shapes

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __contains__(self, key: object) -> bool:
        return key in self._shapes

    def shape(self, key: str) -> tuple[int, ...]:
        return self._shapes[key]

    def read(self, key: str) -> torch.Tensor:
        """See Weights.

        Raises:
            ProLoRAError: always.
        """
        raise ProLoRAError(
            f"The weight {key} of {self.name} is needed here, and a recording holds names and "
            "shapes only. Choose the checkpoint that the LoRA was trained on as the source."
        )


def is_outline(model: Model) -> bool:
    """Whether a model has no weights."""
    return isinstance(model.weights, OutlineWeights)


def refuse_outline(model: Model, mode: str) -> None:
    """Refuses a source without weights for a mode that needs them.

    Raises:
        ProLoRAError: it is one.
    """
    if is_outline(model):
        raise ProLoRAError(
            f"Mode {mode} needs the weights of the source {model.name}, and a recording holds its "
            "names and shapes only. Choose the checkpoint that the LoRA was trained on, or connect "
            "the recording to ProLoRA Transfer and choose mode auto."
        )


def outline_of(model: Model, keys: Collection[str]) -> Model:
    """A model's names and shapes.

    Args:
        keys: the weights of which all names in LoRA files are kept. The others keep one, which
            tells that a LoRA can name them, and all keep their shapes.
    """
    shapes = {key: model.weights.shape(key) for key in model.weights}
    first = {ref.key: name for name, ref in reversed(list(model.key_map.items()))}
    names = {
        name: ref
        for name, ref in model.key_map.items()
        if ref.key in keys or name == first[ref.key]
    }
    weights = OutlineWeights(model.name, shapes)
    return Model(model.name, model.architecture, weights, names, model.hint)


def as_json(model: Model) -> dict[str, Any]:
    """An outline as plain values."""
    return {
        "name": model.name,
        "architecture": model.architecture,
        "shapes": {key: list(model.weights.shape(key)) for key in model.weights},
        "names": {name: _ref_as_json(ref) for name, ref in model.key_map.items()},
    }


def from_json(found: Mapping[str, Any]) -> Model:
    """The outline of plain values.

    Raises:
        KeyError, TypeError, ValueError: they are none.
    """
    name = str(found["name"])
    shapes = {str(key): tuple(int(n) for n in shape) for key, shape in found["shapes"].items()}
    names = {str(lora): _ref_from_json(ref) for lora, ref in found["names"].items()}
    unknown = [ref.key for ref in names.values() if ref.key not in shapes]
    if unknown:
        raise ValueError(f"a name means {unknown[0]}, which has no shape")
    return Model(name, str(found["architecture"]), OutlineWeights(name, shapes), names)


def _ref_as_json(ref: WeightRef) -> list[Any]:
    part = None if ref.part is None else [ref.part.dim, ref.part.start, ref.part.length]
    return [ref.key, part, ref.halves_swapped]


def _ref_from_json(found: Any) -> WeightRef:
    key, part, swapped = found
    place = None if part is None else Slice(*(int(n) for n in part))
    return WeightRef(str(key), place, bool(swapped))
