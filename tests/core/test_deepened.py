"""The blocks that were inserted into a deepened model are found, as published for Anima.

Anima-2.9B and -3.8B are Anima with 12 and 24 blocks more, inserted by LLaMA-Pro's recipe (arXiv
2401.02415): a block follows the one that it is a copy of, its output projections muted, and is
trained. The lists are those of their authors' manifests, as the tools that move LoRAs to them have
them. The weights are made up, with Anima's names and a sixteenth of its widths.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import cache

import pytest
import torch

from fixtures.inventory import inventory
from prolora.pairing.alignment import Alignment, align
from prolora.pairing.block_similarity import RandomizedBlockSimilarity
from prolora.pairing.module_tree import module_tree

from .stacks import Weights, model, with_noise

NARROWER = 16
TO_40 = (2, 5, 8, 11, 14, 17, 21, 24, 27, 30, 33, 36)
TO_52 = (3, 7, 11, 15, 19, 23, 27, 31, 35, 39, 43, 47)  # from 40
OUTPUTS = ("self_attn.output_proj", "cross_attn.output_proj", "mlp.layer2")

Stack = tuple[Weights, ...]
# (the block before, the block after, a seed) -> the block that is inserted between them.
Insert = Callable[[Weights, Weights, int], Weights]


@cache
def shapes() -> Mapping[str, tuple[int, int]]:
    """Of a block of Anima, narrowed."""
    found = inventory("anima").modules.items()
    first = {k.removesuffix(".weight"): s for k, s in found if k.startswith("blocks.0.")}
    assert len(first) == 16
    return {
        name.removeprefix("blocks.0."): (m // NARROWER, n // NARROWER)
        for name, (m, n) in first.items()
    }


def falling(shape: tuple[int, int], seed: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    m, n = shape
    rank = min(m, n)
    left, right = torch.randn(m, rank, generator=random), torch.randn(rank, n, generator=random)
    weight = (left * torch.arange(1, rank + 1) ** -0.8) @ right
    return weight / weight.norm() * m**0.5


@cache
def anima(blocks: int = 28) -> Stack:
    """A part of each weight is common to all blocks, as in a residual network."""
    common = {name: falling(shape, 10_000 + i) for i, (name, shape) in enumerate(shapes().items())}
    return tuple(
        {
            name: 0.4 * common[name] + 0.9 * falling(shape, 100 * block + i)
            for i, (name, shape) in enumerate(shapes().items())
        }
        for block in range(blocks)
    )


def bare(before: Weights, after: Weights, seed: int) -> Weights:
    return dict(before)


def muted(before: Weights, after: Weights, seed: int) -> Weights:
    return {n: torch.zeros_like(w) if n in OUTPUTS else w for n, w in before.items()}


def trained(before: Weights, after: Weights, seed: int) -> Weights:
    """Its outputs have grown from nothing, the rest has drifted."""
    grown = {n: 0.3 * falling(tuple(before[n].shape), seed + i) for i, n in enumerate(OUTPUTS)}
    return {n: with_noise(w, 0.1, seed) for n, w in before.items()} | grown


def between(before: Weights, after: Weights, seed: int) -> Weights:
    return {n: with_noise((w + after[n]) / 2, 0.1, seed) for n, w in before.items()}


INSERTS = {insert.__name__: insert for insert in (bare, muted, trained, between)}


def deepened(stack: Stack, inserted: Sequence[int], insert: Insert) -> Stack:
    found: list[Weights] = []
    rest = list(stack)
    while rest:
        at = len(found)
        found.append(insert(found[-1], rest[0], 7000 + at) if at in inserted else rest.pop(0))
    assert len(found) == len(stack) + len(inserted)
    return tuple(found)


def fine_tuned(stack: Stack, drift: float) -> Stack:
    return tuple({n: with_noise(w, drift, i) for n, w in b.items()} for i, b in enumerate(stack))


def aligned(source: Stack, target: Stack) -> Alignment:
    models = [
        model(
            name, {f"blocks.{i}.{n}": w for i, block in enumerate(stack) for n, w in block.items()}
        )
        for name, stack in (("A", source), ("B", target))
    ]
    similarity = RandomizedBlockSimilarity(*models, torch.device("cpu"))
    return align(*map(module_tree, models), similarity)


def without_source(found: Alignment) -> tuple[int, ...]:
    return tuple(int(b.target.split(".")[1]) for b in found.blocks if not b.source)


def in_order(found: Alignment) -> bool:
    """Whether the other blocks of the target take all blocks of the source, one after another."""
    taken = [int(block.source.split(".")[1]) for block in found.blocks if block.source]
    return taken == list(range(len(taken)))


@pytest.mark.parametrize("insert", INSERTS.values(), ids=INSERTS)
def test_28_to_40(insert: Insert):
    """The other blocks are Anima's own, bit by bit."""
    found = aligned(anima(), deepened(anima(), TO_40, insert))
    assert without_source(found) == TO_40
    assert in_order(found)


@pytest.mark.parametrize("insert", INSERTS.values(), ids=INSERTS)
def test_40_to_52(insert: Insert):
    source = deepened(anima(), TO_40, trained)
    found = aligned(source, deepened(source, TO_52, insert))
    assert without_source(found) == TO_52
    assert in_order(found)


def test_28_to_52():
    """Neither the blocks that were inserted first nor those that were inserted then take one."""
    forty = deepened(anima(), TO_40, trained)
    found = aligned(anima(), deepened(forty, TO_52, trained))
    places = [i for i in range(52) if i not in TO_52]  # of the 40
    assert without_source(found) == tuple(sorted((*TO_52, *(places[i] for i in TO_40))))
    assert in_order(found)


@pytest.mark.parametrize("insert", [muted, trained, between])
def test_fine_tunes_of_the_40(insert: Insert):
    """All of it was trained on: no block is Anima's own any more, and a copy is no twin."""
    found = aligned(anima(), fine_tuned(deepened(anima(), TO_40, insert), 0.2))
    assert without_source(found) == TO_40
    assert in_order(found)


def test_40_to_28():
    """The other way: what was inserted stays behind."""
    found = aligned(deepened(anima(), TO_40, trained), anima())
    left = tuple(int(b.source.split(".")[1]) for b in found.blocks if not b.target)
    assert left == TO_40
    assert without_source(found) == ()
