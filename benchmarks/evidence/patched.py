"""Moved adapters of any family on a torch model: its weights are others for a while."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from prolora.adapters import Adapter
from prolora.adapters.dora import DoraAdapter
from prolora.models.model import Model
from prolora.models.references import WeightRef


@contextmanager
def patched(layers: Mapping[str, Any], model: Model, adapters: Sequence[Adapter]) -> Iterator[None]:
    """Lets a model compute with adapters; afterwards its weights are the same tensors as before.

    Args:
        layers: the key of a weight, as `model` has it -> its layer; see Network.
        model: the same model as the core has it, by whose names the adapters are called.
        adapters: as TransferResult has them. Two of one weight go one on top of the other.

    Raises:
        ValueError: a name means no weight of the model, or one that no layer has.
    """
    before: dict[Any, torch.Tensor] = {}
    try:
        for adapter in adapters:
            ref = model.resolve(adapter.name)
            if ref is None or ref.key not in layers:
                raise ValueError(f"{adapter.name} is no layer of {model.name}")
            layer = layers[ref.key]
            own = before.setdefault(layer, layer.weight.data)
            with torch.no_grad():
                changed = _changed(layer.weight.data.float(), ref, adapter)
            layer.weight.data = changed.to(own)
        yield
    finally:
        for layer, own in before.items():
            layer.weight.data = own


def _changed(weight: torch.Tensor, ref: WeightRef, adapter: Adapter) -> torch.Tensor:
    """A whole weight with an adapter of it, or of a part of it, applied; in its own shape."""
    part = ref.part
    own = weight if part is None else weight.narrow(part.dim, part.start, part.length)
    patched_own = ref.reordered(patched_weight(ref.reordered(own), adapter))
    if part is None:
        return patched_own
    whole = weight.clone()
    whole.narrow(part.dim, part.start, part.length).copy_(patched_own)
    return whole


def patched_weight(weight: torch.Tensor, adapter: Adapter) -> torch.Tensor:
    """W + delta, or m (W + delta) / ||W + delta|| for a DoRA: its trainers' formula.

    Args:
        weight: float32, in its own shape; what is returned has the same.
    """
    changed: torch.Tensor = weight + adapter.update(weight).delta.to(weight).reshape(weight.shape)
    if not isinstance(adapter, DoraAdapter):
        return changed
    others = [axis for axis in range(weight.ndim) if axis != adapter.axis]
    norms = torch.linalg.vector_norm(changed, dim=others, keepdim=True)
    magnitude = adapter.magnitude.to(weight).reshape(norms.shape)
    return changed * (magnitude / norms)
