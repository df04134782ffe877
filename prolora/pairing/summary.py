"""Which blocks were paired: a few lines of text for every stage."""

import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence

from ..errors import truncated_list
from .alignment import BY_NAME, BlockPair

_LISTED = 12


def stage_lines(blocks: Sequence[BlockPair]) -> Iterator[str]:
    """The lines for every stage whose blocks were not all paired by name."""
    stages: dict[tuple[str, str], list[BlockPair]] = defaultdict(list)
    for block in blocks:
        stages[block.stage].append(block)
    for (source, target), found in stages.items():
        pairs = sorted(found, key=_place)
        if any(pair.how != BY_NAME for pair in pairs):
            yield from _lines(source, target, pairs)


def _lines(source: str, target: str, pairs: Sequence[BlockPair]) -> Iterator[str]:
    paired = [pair for pair in pairs if pair.source and pair.target]
    arrows = [f"{_short(pair.source, source)} -> {_short(pair.target, target)}" for pair in paired]
    how = ", ".join(dict.fromkeys(pair.how for pair in pairs))
    similarities = [pair.similarity for pair in paired if pair.similarity is not None]
    figures = ""
    if similarities:
        figures = f"similarity {min(similarities):.2f} to {max(similarities):.2f}, "
    stage = f"{target}, source -> target" if source == target else f"{source} -> {target}"
    stage = stage if target else "source -> target"  # single modules that were given
    found = ", ".join(truncated_list(arrows, _LISTED)) or "no block fits another"
    yield f"{stage} ({figures}{how}): {found}"
    without = [_short(pair.target, target) for pair in pairs if pair.target and not pair.source]
    if without:
        yield f"  without a source: {', '.join(truncated_list(without, _LISTED))}"
    unmatched = [_short(pair.source, source) for pair in pairs if pair.source and not pair.target]
    if unmatched:
        yield f"  unmatched in the source: {', '.join(truncated_list(unmatched, _LISTED))}"


def _place(pair: BlockPair) -> tuple[bool, int, str]:
    """Sorts pairs by the target's numbers; last are named modules and unmatched source blocks."""
    last = (pair.target or pair.source).rpartition(".")[2]
    return not pair.target, int(last) if last.isdecimal() else sys.maxsize, last


def _short(path: str, stage: str) -> str:
    """A block's number in its stage; the whole path for a block of another stage."""
    return path.removeprefix(f"{stage}.")
