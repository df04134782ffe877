"""Models of a weight or two and LoRAs for them, and updates read without the code under test."""

from collections.abc import Mapping

import numpy as np
import torch

from prolora.adapters import AdapterFile, LoraAdapter
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.pairing.alignment import align
from prolora.pairing.block_similarity import RandomizedBlockSimilarity
from prolora.pairing.module_tree import module_tree
from prolora.transfer.job import transfer_lora
from prolora.transfer.plan import Plan, plan
from prolora.transfer.report import ModuleReport
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

SHAPES = {"linear": (24, 16), "conv 1x1": (16, 24, 1, 1), "conv 3x3": (12, 6, 3, 3)}


def random_weight(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def drifted(weight: torch.Tensor, drift: float = 0.5, seed: int = 100) -> torch.Tensor:
    """The weight after a fine-tuning: the same one with so much noise on it."""
    return weight + drift * weight.std() * random_weight(tuple(weight.shape), seed)


def random_lora(
    name: str,
    shape: tuple[int, ...],
    rank: int = 4,
    alpha: float | None = None,
    dtype: torch.dtype = torch.float32,
    seed: int = 1,
) -> LoraAdapter:
    """For a weight of this shape, in the layout that trainers write."""
    up = random_weight((shape[0], rank, *(1,) * len(shape[2:])), seed)
    down = random_weight((rank, *shape[1:]), seed + 1)
    return LoraAdapter(name, up.to(dtype), down.to(dtype), alpha)


def delta(adapter: LoraAdapter) -> np.ndarray:
    """scale * up @ down as the files' convention has it, m x n, float64."""
    up, down = (t.detach().double().flatten(1).numpy() for t in (adapter.up, adapter.down))
    scale = 1 if adapter.alpha is None else adapter.alpha / len(down)
    return scale * (up @ down)


def matrix(weight: torch.Tensor) -> np.ndarray:
    return weight.double().flatten(1).numpy()


def model_of(name: str, weights: Mapping[str, torch.Tensor]) -> Model:
    """A model whose LoRA module names are its weights' names."""
    key_map = {key: WeightRef(f"{key}.weight") for key in weights}
    tensors = {f"{key}.weight": weight for key, weight in weights.items()}
    return Model(name, "SDXL", StateDictWeights(tensors), key_map)


def file_of(*adapters: LoraAdapter) -> AdapterFile:
    return AdapterFile("style.safetensors", adapters, {}, (), {})


def move(
    adapter: LoraAdapter, source: torch.Tensor, target: torch.Tensor, **choices: object
) -> tuple[LoraAdapter, ModuleReport]:
    """One module through the whole job, projected; with no threshold unless it is named."""
    models = (model_of("A", {adapter.name: source}), model_of("B", {adapter.name: target}))
    settings = TransferSettings(**{"mode": "full", "threshold": 0.0, **choices})
    result = transfer_lora(file_of(adapter), *models, settings)
    return result.adapters[0], result.report.rows[0]


def paired(file: AdapterFile, source: Model, target: Model) -> Plan:
    """What goes where, without moving anything."""
    similarity = RandomizedBlockSimilarity(source, target, torch.device("cpu"))
    alignment = align(module_tree(source), module_tree(target), similarity)
    return plan(resolve(file, source), alignment, target)
