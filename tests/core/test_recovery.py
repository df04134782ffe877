"""Which blocks of SDXL a pruned child has kept is found again, in its weights alone.

The models are made up (fixtures/children.py): SDXL's and its children's own names and
structure, at a tenth of the width; one stage at full size.
"""

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch

from fixtures import children, inventory
from fixtures import stable_diffusion as sd
from fixtures.children import (
    CHILDREN,
    KOALA_700M,
    SSD_1B,
    Child,
    ChildWeights,
    Keep,
    MadeUpWeights,
)
from prolora.adapters import LoraAdapter
from prolora.algebra.effective_rank import smallest_rank
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights, Weights
from prolora.pairing.alignment import Alignment, align
from prolora.pairing.block_similarity import RandomizedBlockSimilarity
from prolora.pairing.module_tree import module_tree
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .small_models import delta, file_of, random_lora

WIDTH = 32
SDXL = sd.SDXL.narrowed(WIDTH)
EVERY_CHILD = pytest.mark.parametrize("child", CHILDREN, ids=lambda child: child.inventory)


# What the models are


@pytest.mark.parametrize(
    ("name", "figures"), [("sdxl", sd.SDXL), *((c.inventory, c.figures) for c in CHILDREN)]
)
def test_names_and_shapes_are_the_hosts(name: str, figures: sd.UNet):
    assert sd.unet(figures) == inventory.inventory(name).tensors


@EVERY_CHILD
def test_every_weight_has_the_shape_of_its_origin(child: Child):
    """A child is cut out of SDXL, with no weight of it twice."""
    theirs, ours = sd.unet(sd.SDXL), sd.unet(child.figures)
    origins = children.origins(child, children.spread)
    assert {key: theirs[origin] for key, origin in origins.items()} == ours
    assert len(set(origins.values())) == len(origins)


@pytest.mark.parametrize("module", ["attn1.to_q", "attn2.to_k", "ff.net.0.proj", "ff.net.2"])
def test_spectra_are_like_those_of_trained_weights(module: str):
    """Of those, 90 % of the energy lies in 0.40 to 0.69 of all directions (a language model)."""
    figures = sd.SDXL.narrowed(80)
    key = f"input_blocks.7.1.transformer_blocks.0.{module}.weight"
    weight = MadeUpWeights(sd.unet(figures)).read(key)
    squared = torch.linalg.svdvals(weight.double()).square()
    assert 0.3 < smallest_rank(squared, 0.9) / len(squared) < 0.7
    # The leading ones stand out: of white noise, the largest has at most (1 / sqrt(m) + 1 /
    # sqrt(n)) ** 2 of the energy (Marchenko and Pastur).
    m, n = weight.shape
    assert squared[0] / squared.sum() > 2 * (m**-0.5 + n**-0.5) ** 2


# The right pairs


@pytest.mark.parametrize(("drift", "share"), [(0.02, 1.0), (0.1, 1.0), (0.3, 0.95)])
@EVERY_CHILD
def test_children_of_sdxl(child: Child, drift: float, share: float):
    origins = children.origins(child, children.any_of)
    truth = children.block_origins(origins)
    unsettled = children.unsettled(origins)
    assert len(unsettled) > 12
    # Neither names nor positions tell. (KOALA's way up is as evenly thinned as positions have it.)
    assert right({path: path for path in truth}, truth, unsettled) < 0.35
    assert right(children.at_the_same_depth(origins), truth, unsettled) < 0.55
    found = found_pairs(parent(), child_of(child, origins, drift))
    assert right(found.pairs, truth) >= share
    assert right(found.pairs, truth, unsettled) >= share


@pytest.mark.parametrize("keep", [children.first, children.spread])
def test_whatever_was_kept(keep: Keep):
    origins = children.origins(SSD_1B, keep)
    found = found_pairs(parent(), child_of(SSD_1B, origins, 0.3))
    assert right(found.pairs, children.block_origins(origins)) == 1


def test_blocks_that_the_parent_never_had_stay_alone():
    grown = replace(SSD_1B, figures=deeper(SSD_1B.figures, 2))
    origins = children.origins(grown, with_new_blocks)
    truth = children.block_origins(origins)
    new = {path for path, source in truth.items() if not source}
    assert len(new) == 8
    found = found_pairs(parent(), child_of(grown, origins, 0.3)).pairs
    assert {path for path, source in found.items() if source is None} == new
    assert right(found, truth) == 1


@pytest.mark.parametrize("child", [SSD_1B, KOALA_700M], ids=lambda child: child.inventory)
def test_from_the_child_back_to_sdxl(child: Child):
    """A deepened model: what the shallow one never had stays alone, with all that is in it."""
    origins = children.origins(child, children.any_of)
    truth = children.block_origins(children.reversed_origins(origins))
    assert sum(not source for source in truth.values()) > 30
    assert right({path: path for path in truth}, truth) < 0.65
    found = found_pairs(child_of(child, origins, 0.3), parent())
    assert right(found.pairs, truth) == 1


def test_blocks_in_another_order_are_never_crossed():
    """Those that still follow one another are paired, as many as can be; the others stay alone."""
    origins = children.origins(SSD_1B, shuffled)
    truth = children.block_origins(origins)
    pairs = found_pairs(parent(), child_of(SSD_1B, origins, 0.3)).pairs
    crossed = 0
    for stage in ("input_blocks.7.1", "input_blocks.8.1", "output_blocks.0.1", "output_blocks.1.1"):
        paths = [f"{stage}.transformer_blocks.{i}" for i in range(4)]
        kept = [(path, pairs[path]) for path in paths if pairs[path] is not None]
        assert all(source == truth[path] for path, source in kept)
        sources = [number(source) for _, source in kept]
        assert sources == sorted(sources)
        assert len(sources) == longest_rise([number(truth[path]) for path in paths])
        crossed += len(paths) - len(sources)
    assert crossed >= 4


# The whole transfer


MODULES = ("attn1.to_q", "ff.net.2", "in_layers.2")


def test_every_module_of_a_lora_comes_from_the_right_block():
    source, origins = parent(), children.origins(KOALA_700M, children.any_of)
    target = child_of(KOALA_700M, origins, 0.1)
    lora = {
        name: random_lora(name, source.shape(ref), seed=seed)
        for seed, (name, ref) in enumerate(source.key_map.items())
        if name.endswith(MODULES)
    }
    expected = {
        key.removesuffix(".weight"): lora[origin.removesuffix(".weight")]
        for key, origin in origins.items()
        if origin.removesuffix(".weight") in lora
    }
    unsettled = tuple(f"{path}." for path in children.unsettled(origins))
    named_alike = [
        off(lora[name], update)
        for name, update in expected.items()
        if name.startswith(unsettled) and name in lora
    ]
    assert sum(distance > 1 for distance in named_alike) > len(named_alike) / 2
    result = transfer_lora(file_of(*lora.values()), source, target, TransferSettings(threshold=0))
    moved = {a.name: a for a in result.adapters if isinstance(a, LoraAdapter)}
    assert moved.keys() == expected.keys()
    assert max(off(moved[name], update) for name, update in expected.items()) < 0.5
    left = [row for row in result.report.rows if row.status == "skipped"]
    assert len(left) == len(lora) - len(expected)
    assert all(row.reason for row in left)


# One stage at full size


@pytest.mark.skipif(
    os.environ.get("HYPOTHESIS_PROFILE") != "thorough", reason="takes up to a minute"
)
def test_a_stage_at_full_size():
    """Ten blocks of 1280, of which four are left; 0.35 billion weights in fp16."""
    stage = "input_blocks.7.1.transformer_blocks."
    shapes, theirs = (
        {key: shape for key, shape in sd.unet(figures).items() if key.startswith(stage)}
        for figures in (sd.SDXL, sd.SSD_1B)
    )
    whole = children.origins(SSD_1B, children.any_of)
    origins = {key: whole[key] for key in theirs}
    places = children.block_origins(origins)
    truth = {path: source for path, source in places.items() if path.startswith(stage)}
    assert len(truth) == 4 and right({path: path for path in truth}, truth) == 0
    weights = MadeUpWeights(shapes)
    source = kept("SDXL", weights, torch.float16)
    target = kept("child", ChildWeights(source.weights, theirs, origins, 0.3), torch.float16)
    found = found_pairs(source, target)
    assert right(found.pairs, truth) == 1


# Help


@cache
def parent() -> Model:
    return kept("SDXL", MadeUpWeights(sd.unet(SDXL)))


def child_of(child: Child, origins: Mapping[str, str], drift: float) -> Model:
    shapes = sd.unet(child.figures.narrowed(WIDTH))
    return kept(child.inventory, ChildWeights(parent().weights, shapes, origins, drift))


def kept(name: str, weights: Weights, dtype: torch.dtype = torch.float32) -> Model:
    """A model with all its weights in memory, whose LoRA module names are its weights' names."""
    tensors = {
        key: weights.read(key).to(dtype)
        for key in weights
        if key.endswith(".weight") and len(weights.shape(key)) >= 2
    }
    names = {key.removesuffix(".weight"): WeightRef(key) for key in tensors}
    return Model(name, "SDXL", StateDictWeights(tensors), names)


def found_pairs(source: Model, target: Model) -> Alignment:
    similarity = RandomizedBlockSimilarity(source, target, torch.device("cpu"))
    return align(module_tree(source), module_tree(target), similarity)


def right(
    pairs: Mapping[str, str | None], truth: Mapping[str, str], among: set[str] | None = None
) -> float:
    """Share of the blocks that have the partner they should have, or none where none is there.

    A block whose surroundings have no partner was never looked at, and has none.
    """
    paths = truth.keys() if among is None else among
    return sum((pairs.get(path) or "") == truth[path] for path in paths) / len(paths)


def deeper(figures: sd.UNet, blocks: int) -> sd.UNet:
    """With so many more blocks in every transformer of the last level that was pruned."""

    def grow(depths: sd.Depths) -> sd.Depths:
        if not depths:
            return depths
        *others, last = depths
        each = (last,) if isinstance(last, int) else last
        grown = tuple(depth if depth == 10 else depth + blocks for depth in each)
        return (*others, grown[0] if isinstance(last, int) else grown)

    return replace(figures, depths=grow(figures.depths), upward=grow(figures.upward))


def with_new_blocks(name: str, parent: int, child: int) -> Sequence[int | None]:
    """Two new ones, after the first and before the last."""
    if child in (1, 2, parent):
        return children.any_of(name, parent, child)
    first, *others, last = children.any_of(name, parent, child - 2)
    return [first, None, *others, None, last]


def shuffled(name: str, parent: int, child: int) -> Sequence[int]:
    order = list(children.any_of(name, parent, child))
    return [*order[child // 2 :], *reversed(order[: child // 2])] if child < parent else order


def longest_rise(numbers: Sequence[int]) -> int:
    """Of all that are left when some are taken out, the most that ascend."""
    chosen = (
        choice for n in range(len(numbers) + 1) for choice in itertools.combinations(numbers, n)
    )
    return max(len(choice) for choice in chosen if list(choice) == sorted(choice))


def number(path: str) -> int:
    return int(path.rpartition(".")[2])


def off(ours: LoraAdapter, theirs: LoraAdapter) -> float:
    """Relative distance of two updates; infinite where they are of other shapes."""
    a, b = delta(ours), delta(theirs)
    if a.shape != b.shape:
        return math.inf
    return math.dist(a.ravel(), b.ravel()) / math.hypot(*b.ravel())
