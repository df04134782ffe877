"""Two models to compare: a stage of blocks, and what a fine-tune or a pruning makes of it."""

import torch

from prolora.comparison.figures import Comparison, compare
from prolora.transfer.settings import TransferSettings

from .small_models import drifted, model_of, random_weight

SHAPES = {"attn.q": (24, 16), "attn.out.0": (16, 24), "conv": (12, 6, 3, 3)}


def weights(blocks: int, first: int = 0) -> dict[str, torch.Tensor]:
    """A stage of so many blocks, and a weight outside of it."""
    found = {"embed": random_weight((16, 8), seed=first + 900)}
    for i in range(blocks):
        for j, (name, shape) in enumerate(SHAPES.items()):
            found[f"blocks.{i}.{name}"] = random_weight(shape, seed=first + 10 * i + j)
    return found


def tuned(found: dict[str, torch.Tensor], drift: float = 0.3) -> dict[str, torch.Tensor]:
    return {key: drifted(weight, drift, seed=i) for i, (key, weight) in enumerate(found.items())}


def without_block(found: dict[str, torch.Tensor], gone: int) -> dict[str, torch.Tensor]:
    child = {}
    for key, weight in found.items():
        if key.startswith("blocks."):
            _, number, name = key.split(".", 2)
            if int(number) == gone:
                continue
            key = f"blocks.{int(number) - (int(number) > gone)}.{name}"
        child[key] = weight
    return child


def compared(source: dict, target: dict, **choices) -> Comparison:
    models = model_of("A", source), model_of("B", target)
    return compare(*models, TransferSettings(**choices))
