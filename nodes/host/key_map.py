"""Makes the core's Model from ComfyUI's LoRA key map."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ...prolora.errors import ProLoRAError
from ...prolora.models.model import Model
from ...prolora.models.references import Slice, WeightRef, swap_halves
from ...prolora.models.weights import Weights


def host_model(
    name: str, config: Any, weights: Weights, names: Mapping[str, Any], path: Path | None = None
) -> Model:
    """A Model whose key map is the host's.

    Names of weights that the model does not have are left out.

    Args:
        name: what to call the model in reports.
        config: the host's configuration; the name of its class is the architecture's name.
        weights: the model's weights, by the host's keys.
        names: the module name in a LoRA file -> the host's place: a key, or a tuple (see
            _weight_ref).
        path: of the model's file, if it is known.

    Raises:
        ProLoRAError: the host reorders the rows of a weight in an unknown way.
    """
    refs = {lora: _weight_ref(place) for lora, place in names.items()}
    key_map = {lora: ref for lora, ref in refs.items() if _is_in(ref, weights)}
    return Model(name, type(config).__name__, weights, key_map, path=path)


def _is_in(ref: WeightRef, weights: Weights) -> bool:
    """Whether the weight and the part exist: 0.33.0 slices Lumina 2's qkv beyond its end."""
    if ref.key not in weights or ref.part is None:
        return ref.key in weights
    return ref.part.start + ref.part.length <= weights.shape(ref.key)[ref.part.dim]


def _weight_ref(place: str | tuple[Any, ...]) -> WeightRef:
    """The reference for a place of the host: a key, or (key, slice or None, reordering functions).

    The host applies the reordering to an update. Ours must also bring a weight into the order of
    the update; swapping halves does both, as it is its own inverse.

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
            "ProLoRA's command line, or another version of ComfyUI or ProLoRA."
        )
    return not torch.equal(found, rows)
