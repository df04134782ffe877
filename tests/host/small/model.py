"""What a small model is: the names and shapes of an architecture, at widths of a few MB.

Newer hosts take the widths from the weights, and count the blocks of most architectures by their
keys. Where the number of heads follows from the width, a head is as wide as in the real model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Stage:
    """Blocks of one kind.

    Attributes:
        path: of the list of blocks.
        count: of the blocks in the parent.
        shapes: the tensors of one block, by their names in it.
        lora: the weights that a trainer's LoRA changes in one block, by the trainer's names for
            them; `{}` is the block's number.
    """

    path: str
    count: int
    shapes: Shapes
    lora: Shapes


@dataclass(frozen=True)
class SmallModel:
    """An architecture.

    Attributes:
        shapes: the tensors outside of its stages.
        context, pooled: the widths of the text that it takes; pooled is 0 where it takes none.
        counted: whether the host counts the blocks, so that it loads a model with fewer.
        computes: whether the host can sample with it at these widths.
        in_checkpoint: whether its file is a checkpoint's, without a text encoder and a VAE.
        since: the first of the hosts that are tested which takes the widths from the weights.
    """

    shapes: Shapes
    stages: tuple[Stage, ...]
    context: int
    pooled: int = 0
    counted: bool = True
    computes: bool = True
    in_checkpoint: bool = False
    since: tuple[int, ...] = (0, 33)


def linears(shapes: Shapes, bias: bool = True) -> Shapes:
    """Module -> out x in (and a kernel), as the tensors of those modules."""
    biases = {f"{name}.bias": shape[:1] for name, shape in shapes.items() if bias}
    return {f"{name}.weight": shape for name, shape in shapes.items()} | biases


def vectors(width: int, *names: str) -> Shapes:
    return dict.fromkeys(names, (width,))


def under(paths: Iterable[str], shapes: Shapes) -> Shapes:
    """The same tensors in each of several modules."""
    return {f"{path}.{name}": shape for path in paths for name, shape in shapes.items()}


def numbered(path: str, count: int, shapes: Shapes) -> Shapes:
    return under((f"{path}.{number}" for number in range(count)), shapes)


def modules(shapes: Shapes) -> Shapes:
    """The linear layers among a block's tensors."""
    return {
        name.removesuffix(".weight"): shape
        for name, shape in shapes.items()
        if name.endswith(".weight") and len(shape) == 2
    }


def direct_lora(path: str, shapes: Shapes) -> Shapes:
    """Every linear layer of a block by its own name, as ai-toolkit and others do."""
    return {f"diffusion_model.{path}.{{}}.{name}": s for name, s in modules(shapes).items()}


def kohya_lora(path: str, shapes: Shapes) -> Shapes:
    """Every linear layer of a block as kohya's tools name it."""
    flat = {f"{path}.{{}}.{name}".replace(".", "_"): s for name, s in modules(shapes).items()}
    return {f"lora_unet_{name}": shape for name, shape in flat.items()}
