"""A model as a transfer sees it: its weights, and the weight that each module name means."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..algebra.devices import sent
from ..errors import ProLoRAError
from ..lazy import lazy
from .module_names import by_canonical_name, canonical_name
from .references import WeightRef
from .weights import Weights

UNET = "diffusion_model."  # what the keys of a diffusion model begin with, as ComfyUI has them


@dataclass(frozen=True)
class Model:
    """A model as a transfer sees it.

    Attributes:
        name: what to call it in reports, as a file name.
        architecture: its family, as "SDXL"; the host's name for it where there is a host.
        weights: its weights, by the keys that ComfyUI gives them.
        key_map: from the module names that LoRA files use to the weight each one means.
        hint: what to say of a LoRA none of whose names is in it.
        path: of its file or folder; None where it is not known.
    """

    name: str
    architecture: str
    weights: Weights
    key_map: Mapping[str, WeightRef]
    hint: str = ""
    path: Path | None = None

    def resolve(self, name: str) -> WeightRef | None:
        """The weight that a LoRA's module name means, in any spelling (see module_names.py).

        None for a name that is unknown or could mean two weights.
        """
        return self.key_map.get(name) or self._aliases.get(canonical_name(name))

    def names_of(self, key: str) -> Sequence[tuple[str, WeightRef]]:
        """The key map's names for a weight and its parts, each with the place that it means."""
        return self._names.get(key, ())

    @lazy
    def _names(self) -> dict[str, list[tuple[str, WeightRef]]]:
        names: dict[str, list[tuple[str, WeightRef]]] = defaultdict(list)
        for name, ref in self.key_map.items():
            names[ref.key].append((name, ref))
        return dict(names)

    @lazy
    def _aliases(self) -> dict[str, WeightRef]:
        return by_canonical_name(self.key_map)

    def shape(self, ref: WeightRef) -> tuple[int, ...]:
        """The shape of a weight, or of the part that is referenced, without reading it."""
        shape = list(self.weights.shape(ref.key))
        if ref.part is not None:
            shape[ref.part.dim] = ref.part.length
        return tuple(shape)

    def stored(self, ref: WeightRef) -> torch.Tensor:
        """Reads a weight, or the part that is referenced, in whatever type it is stored.

        Its rows come in the order of training. It must not be written to.
        """
        weight = self.weights.read(ref.key)
        if ref.part is not None:
            weight = weight.narrow(ref.part.dim, ref.part.start, ref.part.length)
        return ref.reordered(weight)

    def weight(self, ref: WeightRef, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Reads a weight, or the part that is referenced, in its own shape.

        Args:
            ref: where the weight lies; its rows come in the order of training.
            device, dtype: of the result.

        Raises:
            ProLoRAError: the weight is not stored in floating point, or it holds NaN or infinity.
        """
        weight = self.stored(ref)
        if not weight.is_floating_point():
            raise ProLoRAError(
                f"The weight {ref} of {self.name} is stored as {weight.dtype}: a quantised form "
                "that ProLoRA cannot read. Use an fp16, bf16, fp32 or fp8 version of this model, "
                "or load it in the graph and connect its MODEL."
            )
        weight = sent(weight, device).to(dtype)
        if not torch.linalg.vector_norm(weight, torch.inf).isfinite():
            raise ProLoRAError(
                f"The weight {ref} of {self.name}, shape {list(weight.shape)}, holds NaN or "
                "infinity: the file is damaged or was merged badly. Use another copy of it."
            )
        return weight
