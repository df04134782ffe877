"""What CSD and HPSv2.1 share: OpenAI's vision transformer, its sizes read from the weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..weights import refused

# Of a head of attention, which no weight tells: OpenAI's rule, and ViT-H's exception.
_HEAD_WIDTH, _HEAD_WIDTHS = 64, {1280: 80}


@dataclass(frozen=True)
class VisionSizes:
    """Of a vision transformer.

    Attributes:
        image: side of the pictures, in pixels.
        patch: side of a patch, in pixels.
        width: of a token.
        layers, heads: of the transformer.
    """

    image: int
    patch: int
    width: int
    layers: int
    heads: int


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
    image, heads = round(places**0.5) * patch, heads_of(width, path, option)
    return VisionSizes(image, patch, width, layers_of(tensors), heads)


def heads_of(width: int, path: Path, option: str) -> int:
    """How many heads of attention a transformer of this width has.

    Raises:
        ProLoRAError: none of CLIP's has this width.
    """
    each = _HEAD_WIDTHS.get(width, _HEAD_WIDTH)
    if width % each:
        raise refused(path, option, f"its width of {width} is none of CLIP's")
    return width // each


def layers_of(tensors: Mapping[str, Tensor]) -> int:
    """How many blocks a transformer has."""
    return sum(
        name.startswith("transformer.") and name.endswith(".ln_1.weight") for name in tensors
    )
