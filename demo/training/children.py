"""A's children of another depth: which of their blocks takes which block of A."""

import re

import torch
from torch import nn

from demo.training.model import build_model

# For each block of a child, the block of A that it began as; None for an inserted one.
Blocks = tuple[int | None, ...]
CHILDREN: dict[str, Blocks] = {"pruned": (0, 2), "deepened": (0, 1, None, 2)}

OUTPUTS = re.compile(r"\.(attn\.proj|mlp\.fc2)\.")
BLOCK = re.compile(r"(?<=joint_blocks[._])\d+")  # in a checkpoint's keys and in kohya's


@torch.no_grad()
def child_of(a: nn.Module, which: str) -> nn.Module:
    """Return a child of A as it is before training.

    An inserted block is a copy of the one before it whose last layers are zero: it adds nothing at
    first, so the child begins as A (block expansion, as in LLaMA Pro, arXiv 2401.02415).
    """
    blocks = CHILDREN[which]
    child = build_model(len(blocks))
    copied = tuple(block if block is not None else blocks[i - 1] for i, block in enumerate(blocks))
    weights = a.state_dict()
    child.load_state_dict({key: weights[source_key(key, copied)] for key in child.state_dict()})
    for index, block in enumerate(blocks):
        if block is None:
            for key, parameter in child.joint_blocks[index].named_parameters():
                if OUTPUTS.search(key):
                    parameter.zero_()
    return child


def source_key(key: str, blocks: Blocks) -> str | None:
    """Return A's key for a child's key, of a weight or of a LoRA; None in an unmatched block."""
    if not (found := BLOCK.search(key)):
        return key
    block = blocks[int(found[0])]
    return None if block is None else BLOCK.sub(str(block), key, count=1)
