"""The number of blocks of an SD3 model, apart from its width.

ComfyUI reads both off the width (64 channels a block) and gives the class that number of heads, so
it builds no model that was pruned or deepened. Here the class keeps the width, and its blocks are
counted.
"""

import copy
import re
from collections.abc import Iterable

from torch import nn

BLOCK = re.compile(r"joint_blocks\.(\d+)\.")


def count_blocks(keys: Iterable[str]) -> int:
    """Return how many blocks the keys of a checkpoint name; raise ValueError on a gap or none."""
    found = {int(match[1]) for match in map(BLOCK.search, keys) if match}
    if not found or found != set(range(len(found))):
        raise ValueError(f"not the blocks of an SD3 model, counted from 0: {sorted(found)}")
    return len(found)


def set_depth(model: nn.Module, count: int) -> None:
    """Give an MMDiT `count` blocks, whose weights are yet to be loaded.

    The last block stays the last: it alone has no output for the context.
    """
    first, last = model.joint_blocks[0], model.joint_blocks[-1]
    model.joint_blocks = nn.ModuleList([*(copy.deepcopy(first) for _ in range(count - 1)), last])
