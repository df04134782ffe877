"""BOFT: a weight's outputs (LyCORIS) or inputs (PEFT) are rotated in butterfly stages.

Liu et al. 2023, "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization". Stage i
turns pairs of half blocks that lie 2^i half blocks apart. What the writers do differently:

| | LyCORIS | PEFT |
| --- | --- | --- |
| keys | oft_blocks (read in oft.py), rescale, alpha | boft_R, boft_s |
| Q of a block A | A - A^T | (A - A^T) / 2 |
| R of a block | (I + Q)(I - Q)^-1 | (I - Q)(I + Q)^-1 |
| a block's rows | of the two halves in turn | one half, then the other |
| merged | s R W | s W R^T |
"""

from collections.abc import Mapping

import torch

from .adapter import Origin
from .rotation import Rotation, RotationAdapter, cayley, skew


class BoftAdapter(RotationAdapter):
    family = "BOFT"


def make_boft(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> BoftAdapter:
    """Builds an adapter from PEFT's tensors: boft_R, stages x k x b x b, and boft_s, m numbers.

    Raises:
        ProLoRAError: one of the two is missing, or the blocks are not square or cannot be paired.
    """
    for role, other in (("boft_R", "boft_s"), ("boft_s", "boft_R")):
        if role not in parts:
            origin.refuse(name, f"has a {other} but no {role}")
    blocks, scale = parts["boft_R"], parts["boft_s"]
    if blocks.ndim != 4 or blocks.shape[-1] != blocks.shape[-2] or not blocks.numel():
        origin.refuse(
            name, f"has a boft_R {list(blocks.shape)} that is not stages of square blocks"
        )
    if scale.numel() == 0:
        origin.refuse(name, "has an empty boft_s")
    stages, _, block, _ = blocks.shape
    turned = cayley(-skew(blocks) / 2)
    one = (Rotation(turned[0]),) if stages == 1 else None  # the first stage pairs nothing
    return BoftAdapter(
        name=name,
        rotations=one or butterfly(name, turned, block // 2, origin),
        size=blocks.shape[1] * block,
        on_inputs=True,
        rescale=scale.double().reshape(-1, 1),
    )


def butterfly(name: str, blocks: torch.Tensor, unit: int, origin: Origin) -> tuple[Rotation, ...]:
    """The stages of a butterfly.

    Args:
        blocks: stages x k x b x b, R - I of each block.
        unit: the rows that are taken from one half block before the other has its turn.

    Raises:
        ProLoRAError: the blocks cannot be paired over so many stages.
    """
    stages, count, block, _ = blocks.shape
    if block % 2 or count % 2 ** (stages - 1):
        origin.refuse(
            name,
            f"has a butterfly of {stages} stages, which {count} blocks of {block} cannot have",
        )
    rows = torch.arange(count * block)
    orders = (
        rows.reshape(-1, 2, 2**stage * (block // 2) // unit, unit).transpose(1, 2).flatten()
        for stage in range(stages)
    )
    return tuple(Rotation(*pair) for pair in zip(blocks, orders, strict=True))
