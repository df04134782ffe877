"""Models of blocks: parents, and children with blocks removed, inserted, drifted."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NoReturn

import numpy as np
import torch

from prolora.adapters import AdapterFile, LoraAdapter
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights
from prolora.pairing.module_tree import Node, module_tree

from .small_models import file_of, random_lora
from .strategies import spectrum

Weights = dict[str, torch.Tensor]
BLOCK = {"attn.q": (24, 16), "attn.out": (16, 24), "mlp.0": (32, 16)}


def real_weight(shape: Sequence[int], seed: int) -> torch.Tensor:
    """With a spectrum that falls off, as trained weights have it."""
    random = np.random.default_rng(seed)
    m, n = shape[0], int(np.prod(shape[1:]))
    values = np.arange(1, min(m, n) + 1) ** -0.8
    return torch.tensor(spectrum(random, m, n, values), dtype=torch.float32).reshape(tuple(shape))


def with_noise(weight: torch.Tensor, noise: float, seed: int) -> torch.Tensor:
    """So much of the weight's norm added."""
    random = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    return weight + noise * weight.norm() / random.norm() * random


def block(seed: int, shapes: Mapping[str, Sequence[int]] = BLOCK) -> Weights:
    return {
        name: real_weight(shape, 100 * seed + i) for i, (name, shape) in enumerate(shapes.items())
    }


def noisy(weights: Weights, noise: float, seed: int = 7) -> Weights:
    return {k: with_noise(w, noise, seed + 31 * i) for i, (k, w) in enumerate(weights.items())}


def stack(blocks: Iterable[Weights] | Mapping[int, Weights], path: str = "blocks") -> Weights:
    """A list of blocks, numbered from 0 if no numbers are given."""
    numbered = blocks if isinstance(blocks, Mapping) else dict(enumerate(blocks))
    return {f"{path}.{i}.{name}": w for i, each in numbered.items() for name, w in each.items()}


def names_for(modules: Iterable[str]) -> dict[str, WeightRef]:
    """A key map in kohya's spelling and in ComfyUI's."""
    refs = {module: WeightRef(f"diffusion_model.{module}.weight") for module in modules}
    flat = {f"lora_unet_{m.replace('.', '_')}": ref for m, ref in refs.items()}
    return flat | {f"diffusion_model.{m}": ref for m, ref in refs.items()}


def model(
    name: str,
    weights: Weights,
    parts: Mapping[str, tuple[str, Slice | None]] | None = None,
    architecture: str = "SDXL",
) -> Model:
    """Args:
    parts: LoRA name -> the module and the part of it that it means, beside the usual names.
    """
    tensors = {f"diffusion_model.{module}.weight": w for module, w in weights.items()}
    names = names_for(weights) | {
        own: WeightRef(f"diffusion_model.{module}.weight", part)
        for own, (module, part) in (parts or {}).items()
    }
    return Model(name, architecture, StateDictWeights(tensors), names)


def tree(shapes: Mapping[str, Sequence[int]]) -> Node:
    """Of weights that are never read."""
    return module_tree(
        model("M", {p: torch.empty(tuple(s), device="meta") for p, s in shapes.items()})
    )


def lora_for(weights: Weights, *modules: str, rank: int = 3) -> AdapterFile:
    """A LoRA of kohya's names for these modules, or for all."""
    chosen = modules or tuple(weights)
    return file_of(
        *(
            random_lora(f"lora_unet_{m.replace('.', '_')}", tuple(weights[m].shape), rank, seed=i)
            for i, m in enumerate(chosen)
        )
    )


def by_name(adapters: Iterable[LoraAdapter]) -> dict[str, LoraAdapter]:
    found = {adapter.name: adapter for adapter in adapters}
    assert len(found) == len(list(adapters)), "two adapters of one name"
    return found


def unread(source: Node, target: Node) -> NoReturn:
    """The similarity of two blocks where none may be compared."""
    raise AssertionError(f"{source.path} was compared with {target.path}")
