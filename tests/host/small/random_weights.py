"""Random weights for a SmallModel, a child of it, and a LoRA for it."""

from math import prod

import torch

from .model import Shapes, SmallModel

Tensors = dict[str, torch.Tensor]

DRIFT = 0.1  # of a tensor's norm
GONE = 1  # the block of every stage that a pruned child has not
RANK = 4
DTYPE = torch.bfloat16


def parent(model: SmallModel) -> Tensors:
    random = torch.Generator().manual_seed(0)
    shapes = dict(model.shapes)
    for stage in model.stages:
        for number in range(stage.count):
            shapes |= {f"{stage.path}.{number}.{n}": shape for n, shape in stage.shapes.items()}
    return {name: _tensor(name, shape, random).to(DTYPE) for name, shape in shapes.items()}


def child(model: SmallModel, tensors: Tensors, pruned: bool = False) -> Tensors:
    """The parent, trained on for a while; on request without block GONE of every stage."""
    random = torch.Generator().manual_seed(1)
    kept = _without_blocks(model, tensors) if pruned else tensors
    return {name: _drifted(tensor, random) for name, tensor in kept.items()}


def lora(model: SmallModel) -> Tensors:
    """For all linear layers of all blocks of the parent."""
    random = torch.Generator().manual_seed(2)
    tensors: Tensors = {}
    for name, (m, n) in lora_modules(model).items():
        up = torch.randn(m, RANK, generator=random) / RANK
        down = torch.randn(RANK, n, generator=random) * n**-0.5
        if name.startswith("lora_unet_"):
            pair = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(2.0)}
        else:
            pair = {"lora_B.weight": up, "lora_A.weight": down}
        tensors |= {f"{name}.{part}": tensor for part, tensor in pair.items()}
    return tensors


def lora_of_pruned(model: SmallModel, tensors: Tensors) -> Tensors:
    """The same LoRA for a pruned child, whose blocks have other numbers."""
    renumbered = {
        f"{name.format(parent_block(number))}.": f"{name.format(number)}."
        for stage in model.stages
        for number in range(stage.count - 1)
        for name in stage.lora
    }
    return {
        there + key.removeprefix(here): tensor
        for here, there in renumbered.items()
        for key, tensor in tensors.items()
        if key.startswith(here)
    }


def lora_modules(model: SmallModel) -> Shapes:
    return {
        name.format(number): shape
        for stage in model.stages
        for number in range(stage.count)
        for name, shape in stage.lora.items()
    }


def parent_block(number: int) -> int:
    """Where a block of a pruned child comes from."""
    return number + (number >= GONE)


def _without_blocks(model: SmallModel, tensors: Tensors) -> Tensors:
    kept = {name: tensors[name] for name in model.shapes}
    for stage in model.stages:
        for number in range(stage.count - 1):
            kept |= {
                f"{stage.path}.{number}.{name}": tensors[
                    f"{stage.path}.{parent_block(number)}.{name}"
                ]
                for name in stage.shapes
            }
    return kept


def _tensor(name: str, shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    if len(shape) < 2 or not name.endswith(".weight"):
        one = float(name.endswith((".weight", ".scale")))  # the scales of norms are around 1
        return one + 0.1 * torch.randn(shape, generator=random)
    return _with_decaying_spectrum(shape[0], prod(shape[1:]), random).view(shape)


def _with_decaying_spectrum(m: int, n: int, random: torch.Generator) -> torch.Tensor:
    """Singular values like i ** -0.5, and elements of variance 1 / n."""
    k = min(m, n)
    left, right = (torch.linalg.qr(torch.randn(side, k, generator=random)).Q for side in (m, n))
    values = torch.arange(1, k + 1) ** -0.5
    return (left * values * (m**0.5 / values.norm())) @ right.T


def _drifted(tensor: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    noise = torch.randn(tensor.shape, generator=random)
    return (tensor.float() + noise * DRIFT * tensor.float().norm() / noise.norm()).to(DTYPE)
