"""Blocks of the target that nothing serves, as a deepened child has them, and their neighbours."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from .alignment import GIVEN, BlockPair


def neighbours(blocks: Sequence[BlockPair]) -> tuple[dict[str, str], dict[str, str]]:
    """The nearest served block of its stage on either side of every block that nothing serves.

    A block that takes nothing because a user said so is left alone.

    Returns:
        Target block -> the source block that its neighbour takes: of the neighbour before it, and
        of the one after it. A block at an end of its stage has only one.
    """
    stages: dict[str, list[BlockPair]] = defaultdict(list)
    for block in blocks:
        if block.target.rpartition(".")[2].isdecimal():
            stages[block.stage[1]].append(block)
    before: dict[str, str] = {}
    after: dict[str, str] = {}
    for found in stages.values():
        in_order = sorted(found, key=lambda block: int(block.target.rpartition(".")[2]))
        before |= _last_served(in_order)
        after |= _last_served(reversed(in_order))
    return before, after


def _last_served(blocks: Iterable[BlockPair]) -> Mapping[str, str]:
    found, last = {}, ""
    for block in blocks:
        if block.source:
            last = block.source
        elif last and block.how != GIVEN:
            found[block.target] = last
    return found
