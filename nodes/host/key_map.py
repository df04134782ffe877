"""A model as the core sees it, from the names that ComfyUI gives to its weights."""

from collections.abc import Mapping
from typing import Any

import torch

from ...prolora.errors import ProLoRAError
from ...prolora.models.model import Model
from ...prolora.models.references import Slice, WeightRef, swap_halves
from ...prolora.models.weights import Weights


def host_model(name: str, config: Any, weights: Weights, names: Mapping[str, Any]) -> Model:
    """A model of which the host's key map speaks.

    Args:
        config: the host's configuration; its class is the architecture's name.
        names: a LoRA's name of a module -> the host's place of a weight.
    """
    refs = {lora: _weight_ref(place) for lora, place in names.items()}
    key_map = {lora: ref for lora, ref in refs.items() if _is_in(ref, weights)}
    return Model(name, type(config).__name__, weights, key_map)


def _is_in(ref: WeightRef, weights: Weights) -> bool:
    """Whether there is such a weight and part: 0.33.0 cuts Lumina 2's qkv beyond its end."""
    if ref.key not in weights or ref.part is None:
        return ref.key in weights
    return ref.part.start + ref.part.length <= weights.shape(ref.key)[ref.part.dim]


def _weight_ref(place: str | tuple[Any, ...]) -> WeightRef:
    """The host gives a key, or (key, slice of a fused weight or None, maybe a reordering).

    The host applies the reordering to an update. It swaps halves, so it is its own inverse and
    takes a weight into the order of the update as well.

    Raises:
        ProLoRAError: the host reorders in another way.
    """
    if isinstance(place, str):
        return WeightRef(place)
    key, part, *reorder = place
    return WeightRef(key, None if part is None else Slice(*part), any(map(_swaps_halves, reorder)))


def _swaps_halves(reorder: Any) -> bool:
    rows = torch.arange(4)
    found = reorder(rows)
    if not torch.equal(found, rows) and not torch.equal(found, swap_halves(rows)):
        raise ProLoRAError(
            "This ComfyUI reorders the rows of a weight in a way that ProLoRA does not know. Use "
            "ProLoRA's command line, or another version of either."
        )
    return not torch.equal(found, rows)
