"""Models of a weight of each kind, what a training makes of them, and their difference."""

import torch

from prolora.extraction.extract import Extraction, extract_difference
from prolora.extraction.settings import ExtractionSettings
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights

from .small_models import drifted, model_of, random_weight

WHOLE = ExtractionSettings(rank=0, energy=1.0, least=0.0)


def extracted(base: torch.Tensor, tuned: torch.Tensor, settings=WHOLE) -> Extraction:
    """Of two models of one module."""
    models = (model_of(n, {"layer": w}) for n, w in (("A", base), ("B", tuned)))
    return extract_difference(*models, settings)


def full_model(name: str, **changed: torch.Tensor) -> Model:
    """Layers with a bias, norms, a lone parameter, a fused weight, a text encoder, a table."""
    shapes = {
        "diffusion_model.linear.weight": (24, 16),
        "diffusion_model.linear.bias": (24,),
        "diffusion_model.conv.weight": (12, 6, 3, 3),
        "diffusion_model.norm.weight": (16,),
        "diffusion_model.norm.bias": (16,),
        "diffusion_model.modulation": (1, 6, 16),
        "diffusion_model.scale": (),
        "diffusion_model.qkv.weight": (72, 16),
        "text.layer.weight": (16, 8),
        "vae.conv.weight": (4, 4),
    }
    tensors = {key: random_weight(shape, seed) for seed, (key, shape) in enumerate(shapes.items())}
    tensors |= {"diffusion_model.positions": torch.arange(9)}
    named = {
        f"lora_unet_{module}": WeightRef(f"diffusion_model.{module}.weight")
        for module in ("linear", "conv", "norm", "qkv")
    }
    lone = [f"diffusion_model.{name}" for name in ("modulation", "scale", "positions")]
    named |= {key: WeightRef(key) for key in lone}
    parts = {f"qkv.{n}": Slice(0, 24 * i, 24) for i, n in enumerate("qkv")}
    named |= {n: WeightRef("diffusion_model.qkv.weight", part) for n, part in parts.items()}
    named |= {"lora_te_layer": WeightRef("text.layer.weight")}
    return Model(name, "SD1", StateDictWeights({**tensors, **changed}), named)


def tuned_model(drift: float = 0.3) -> Model:
    base = full_model("A").weights
    changed = {
        key: drifted(base.read(key), drift, seed)
        for seed, key in enumerate(base)
        if base.read(key).is_floating_point() and base.shape(key)
    }
    changed["diffusion_model.scale"] = 1.5 * base.read("diffusion_model.scale")
    return full_model("B", **changed)
