"""What CSD and HPSv2.1 share: OpenAI's vision transformer, its sizes read from the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..weights import refused

HEADS = 16  # of ViT-L/14 and of both towers of ViT-H/14; no weight tells it


@dataclass(frozen=True)
class VisionSizes:
    """Of a vision transformer.

    Attributes:
        image: side of the pictures, in pixels.
        patch: side of a patch, in pixels.
        width: of a token.
        layers: of the transformer.
    """

    image: int
    patch: int
    width: int
    layers: int


def vision_sizes(tensors: Mapping[str, Tensor], path: Path, option: str) -> VisionSizes:
    """The sizes of the tower whose tensors have OpenAI's names.

    Args:
        tensors: conv1.weight, positional_embedding, transformer.resblocks.N...
        path, option: of the file, for the error.

    Raises:
        ProLoRAError: it is no such tower.
    """
    for name, dimensions in {"conv1.weight": 4, "positional_embedding": 2}.items():
        if name not in tensors or tensors[name].ndim != dimensions:
            raise refused(path, option, f"it has no {name} of a vision transformer")
    width, _, patch, _ = tensors["conv1.weight"].shape
    places = len(tensors["positional_embedding"]) - 1  # the class token aside
    return VisionSizes(round(places**0.5) * patch, patch, width, layers_of(tensors))


def layers_of(tensors: Mapping[str, Tensor]) -> int:
    """How many blocks a transformer has."""
    return sum(
        name.startswith("transformer.") and name.endswith(".ln_1.weight") for name in tensors
    )
