"""Which blocks belong together: by name without reading a weight, else by similarity."""

from functools import cache

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from prolora.models.key_map import model_of
from prolora.models.layout import PREFIXES
from prolora.models.weights import StateDictWeights
from prolora.pairing.alignment import (
    BY_NAME,
    BY_SIMILARITY,
    GIVEN,
    BlockPair,
    align,
)
from prolora.pairing.block_similarity import RandomizedBlockSimilarity
from prolora.pairing.module_tree import module_tree
from prolora.pairing.summary import stage_lines

from .small_models import random_weight
from .stacks import BLOCK, block, model, noisy, stack, tree, unread


def links_of(source, target, similarity=unread, **more):
    """Target key -> source key."""
    found = align(source, target, similarity, **more)
    return {link.target: link.source for links in found.links.values() for link in links}, found


def aligned(source, target, **more):
    """The alignment of two models of these weights, and the names of the weights that it read."""
    models = model("A", source), model("B", target)
    read = []
    similarity = RandomizedBlockSimilarity(
        *models, torch.device("cpu"), lambda done, total, name: read.append(name)
    )
    found = align(*map(module_tree, models), similarity, **more)
    return found, read


def shapes_of(count, path="blocks", shapes=BLOCK):
    return {f"{path}.{i}.{name}": shape for i in range(count) for name, shape in shapes.items()}


# By name


def test_models_that_line_up_are_not_read():
    shapes = shapes_of(3) | {"img_in": (16, 8), "out.0.proj": (8, 16), "norm1": (16,)}
    links, found = links_of(tree(shapes), tree(shapes))
    assert links == {f"diffusion_model.{m}.weight": f"diffusion_model.{m}.weight" for m in shapes}
    assert {pair.how for pair in found.blocks} == {BY_NAME}
    assert found.pairs == {f"blocks.{i}": f"blocks.{i}" for i in range(3)}


def test_other_widths_at_one_depth_are_not_read():
    wide = {name: tuple(2 * side for side in shape) for name, shape in shapes_of(3).items()}
    links, _ = links_of(tree(shapes_of(3)), tree(wide))
    assert len(links) == 9
    assert all(source == target for target, source in links.items())


def test_a_child_without_some_modules():
    """As Chroma is to Flux: the same blocks, without the modulation in each."""
    double = {"img_attn.qkv": (48, 16), "img_attn.proj": (16, 16), "img_mod.lin": (96, 16)}
    flux = shapes_of(2, "double_blocks", double) | {"guidance_in.in_layer": (16, 8)}
    chroma = {name: shape for name, shape in flux.items() if "mod" not in name and name[0] != "g"}
    chroma |= {"distilled_guidance_layer.layers.0.in_layer": (16, 8)}
    links, _ = links_of(tree(flux), tree(chroma))
    shared = {name for name in flux if "img_attn" in name}
    assert len(shared) == 4
    assert links == {f"diffusion_model.{m}.weight": f"diffusion_model.{m}.weight" for m in shared}


def test_blocks_that_share_no_weight():
    """One keeps fused what the other has apart, and there is nothing else in a block."""
    fused = {f"blocks.{i}.attn.qkv": (24, 8) for i in range(2)}
    split = {f"blocks.{i}.attn.to_{p}": (8, 8) for i in range(2) for p in "qkv"}
    for ours, theirs in ((fused, split), (split, fused)):
        _, found = links_of(tree(ours), tree(theirs))
        assert sum(map(len, found.links.values())) == 6
    other = {f"blocks.{i}.0.op": (8, 8) for i in range(2)}
    _, found = links_of(tree(other), tree({n.replace("op", "conv"): s for n, s in other.items()}))
    assert not found.links


def test_prefixes_do_not_count():
    def prefixed(prefix):
        tensors = {f"{prefix}{m}.weight": random_weight(s) for m, s in shapes_of(2).items()}
        return model_of("M", StateDictWeights(tensors))

    trees = [module_tree(prefixed(prefix)) for prefix in (*PREFIXES, "")]
    for other in trees[1:]:
        links, _ = links_of(trees[0], other)
        assert len(links) == 6


# By similarity


cached = cache(block)
PARENT = [cached(seed) for seed in range(6)]


def partners(found, path="blocks"):
    """Target number -> source number."""
    pairs = [(pair.target, pair.source) for pair in found.blocks if pair.target.startswith(path)]
    assert len(dict(pairs)) == len(pairs)
    return {int(t.rpartition(".")[2]): int(s.rpartition(".")[2]) if s else None for t, s in pairs}


@given(
    kept=st.sets(st.integers(0, 5), min_size=1),
    inserted=st.lists(st.integers(0, 6), max_size=3),
    noise=st.sampled_from([0.0, 0.02, 0.1, 0.3]),
)
def test_pruned_and_deepened_children(kept, inserted, noise):
    """Blocks removed, new ones between, the rest drifted: every block finds its parent."""
    child = [(i, noisy(PARENT[i], noise, i)) for i in sorted(kept)]
    for count, place in enumerate(inserted):
        child.insert(min(place, len(child)), (None, cached(900 + count)))
    wanted = {position: parent for position, (parent, _) in enumerate(child)}
    assume(len(child) != len(PARENT))  # as many are paired by name, which is the user's to correct
    found, read = aligned(stack(PARENT), stack(weights for _, weights in child))
    assert partners(found) == wanted
    assert len(read) == len(set(read)), "a weight was read twice"
    assert {pair.how for pair in found.blocks} == {BY_SIMILARITY}
    left = {pair.source for pair in found.blocks if not pair.target}
    assert left == {f"blocks.{i}" for i in set(range(6)) - kept}
    taken = {f"diffusion_model.blocks.{i}.{m}.weight" for i in kept for m in BLOCK}
    assert found.links.keys() == taken
    assert len(found.unmatched_source) == 3 * len(left)


def test_a_list_with_holes():
    found, _ = aligned(stack(PARENT), stack({i: PARENT[i] for i in (0, 2, 5)}))
    assert partners(found) == {0: 0, 2: 2, 5: 5}
    renumbered = {0: PARENT[1], 2: PARENT[3], 5: PARENT[4]}  # the numbers are not what tells
    found, _ = aligned(stack(PARENT), stack(renumbered))
    assert partners(found) == {0: 1, 2: 3, 5: 4}
    found, _ = aligned(stack({i: PARENT[i] for i in (0, 2, 5)}), stack(PARENT))
    assert partners(found) == {0: 0, 1: None, 2: 2, 3: None, 4: None, 5: 5}


def nested(numbers):
    """input_blocks.N.1.transformer_blocks.M, as a UNet has them: N -> which transformers."""
    weights = {}
    for outer, inner in numbers.items():
        start = f"input_blocks.{outer}"
        outer_names = [f"{start}.0.in_layers.2", f"{start}.0.out_layers.3"]
        if inner:
            outer_names += [f"{start}.1.proj_in", f"{start}.1.proj_out"]
            blocks = [cached(20 + 6 * outer + i) for i in inner]
            weights |= stack(blocks, f"{start}.1.transformer_blocks")
        weights |= {name: cached(1000 + sum(map(ord, name)))["attn.out"] for name in outer_names}
    return weights


def test_nested_lists():
    """As SSD-1B is to SDXL: the outer blocks line up, the transformers in them do not."""
    source = nested({0: [], 1: range(2), 2: range(5)})
    target = nested({0: [], 1: [1], 2: [0, 3, 4]})
    found, read = aligned(source, target)
    pairs = {t: s for t, s in found.pairs.items() if "transformer_blocks" in t}
    assert pairs == {
        "input_blocks.1.1.transformer_blocks.0": "input_blocks.1.1.transformer_blocks.1",
        "input_blocks.2.1.transformer_blocks.0": "input_blocks.2.1.transformer_blocks.0",
        "input_blocks.2.1.transformer_blocks.1": "input_blocks.2.1.transformer_blocks.3",
        "input_blocks.2.1.transformer_blocks.2": "input_blocks.2.1.transformer_blocks.4",
    }
    assert all(".transformer_blocks." in name for name in read)
    (link,) = found.links["diffusion_model.input_blocks.2.1.proj_in.weight"]
    assert link.target == link.source


def test_outer_blocks_that_are_missing_too():
    """As KOALA is to SDXL: a level has fewer blocks, and their transformers are fewer."""
    source = nested({0: [], 1: range(2), 2: range(4), 3: range(4)})
    target = {
        name.replace("input_blocks.3.", "input_blocks.2."): weight
        for name, weight in nested({0: [], 1: [0, 1], 3: [0, 2, 3]}).items()
    }
    found, _ = aligned(source, target)
    assert found.pairs["input_blocks.2"] == "input_blocks.3"
    inner = {t: s for t, s in found.pairs.items() if t.startswith("input_blocks.2.1.tr")}
    assert [s[-1] for s in inner.values()] == ["0", "2", "3"]
    assert all(s.startswith("input_blocks.3.1.") for s in inner.values())
    assert {p.source for p in found.blocks if not p.target} == {
        "input_blocks.2",
        "input_blocks.3.1.transformer_blocks.1",
    }


def test_two_equal_copies_of_one_block():
    """One of them takes the block, and the summary names the other."""
    source, target = PARENT[:3], [PARENT[0], PARENT[1], PARENT[1], PARENT[2]]
    found, _ = aligned(stack(source), stack(target))
    pairs = partners(found)
    assert (pairs[0], pairs[3]) == (0, 2)
    assert sorted([pairs[1], pairs[2]], key=str) == [1, None]
    unmatched = next(i for i, s in pairs.items() if s is None)
    assert f"  without a source: {unmatched}" in list(stage_lines(found.blocks))


def test_blocks_of_noise_take_nothing():
    noise = [{name: random_weight(s, 9 * i) for name, s in BLOCK.items()} for i in range(4)]
    found, _ = aligned(stack(PARENT), stack(noise))
    assert found.links == {}
    assert set(partners(found).values()) == {None}


def test_zero_weights_say_nothing():
    """A module that is zero in all blocks does not make strangers similar, nor do zero blocks."""

    def zeroed(blocks):
        return [each | {"gate": torch.zeros(16, 16)} for each in blocks]

    found, _ = aligned(stack(zeroed(PARENT)), stack(zeroed(PARENT[1:3])))
    assert partners(found) == {0: 1, 1: 2}
    strangers = zeroed([block(800), block(801)])
    found, _ = aligned(stack(zeroed(PARENT)), stack(strangers))
    assert set(partners(found).values()) == {None}
    dead = [{name: torch.zeros(shape) for name, shape in BLOCK.items()}]
    for source, target in ((dead, dead * 2), (PARENT, dead), (dead, PARENT)):
        found, _ = aligned(stack(source), stack(target))
        assert found.links == {}


@pytest.mark.parametrize("shape", [(1, 6, 16), (1, 32), (32, 1), (1, 1), (1, 1, 4)])
def test_a_weight_of_one_row(shape):
    """Wan has a table of modulations, 1 x 6 x width, in every block."""

    def tabled(numbers):
        return [PARENT[i] | {"modulation": random_weight(shape, 50 + i)} for i in numbers]

    found, _ = aligned(stack(tabled(range(5))), stack(tabled([0, 2, 4])))
    assert partners(found) == {0: 0, 1: 2, 2: 4}
    assert all(pair.similarity == pair.similarity for pair in found.blocks)


def test_one_block_on_a_side():
    found, _ = aligned(stack(PARENT), stack([PARENT[4]]))
    assert partners(found) == {0: 4}
    found, _ = aligned(stack([PARENT[4]]), stack(PARENT))
    assert partners(found) == {i: 0 if i == 4 else None for i in range(6)}


def test_a_list_on_one_side_only():
    found, _ = aligned(stack(PARENT), {"other": random_weight((8, 8))})
    assert found.links == {}
    assert not any(pair.target for pair in found.blocks)


NO_LISTS = {
    "norm1": (16, 16),
    "attn2.to_q": (16, 16),
    "net.0.proj": (32, 16),
    "net.2": (16, 32),
    "to_out.0": (16, 16),
    "block.-1.a": (16, 8),
    "block.-1.b": (16, 8),
    "h.1a.a": (16, 8),
    "h.².a": (16, 8),
    "mlp.٣.a": (16, 8),
}


def test_numbers_in_names():
    links, found = links_of(tree(NO_LISTS), tree(NO_LISTS))
    assert len(links) == len(NO_LISTS)
    assert found.blocks == ()


def test_the_order_is_that_of_the_models():
    """Not that of a set of names, which is another in every run."""
    names = [f"{stage}.{i}.{m}" for stage in "hgfedcba" for i in range(2) for m in "zxy"]
    shapes = dict.fromkeys(names, (8, 8))
    _, found = links_of(tree(shapes), tree(shapes))
    assert list(found.links) == [f"diffusion_model.{name}.weight" for name in names]
    assert [p.target for p in found.blocks] == [f"{s}.{i}" for s in "hgfedcba" for i in range(2)]


# What is wanted


def test_what_the_lora_does_not_touch_is_not_read():
    source = stack(PARENT[:3], "double") | stack(PARENT[3:], "single")
    target = stack(PARENT[:2], "double") | stack(PARENT[3:5], "single")
    found, read = aligned(source, target, wanted={"diffusion_model.double.1.mlp.0.weight"})
    assert read
    assert all("double" in name for name in read)
    assert all("double" in key for key in found.links)
    found, read = aligned(source, target, wanted=set())
    assert (read, found.links, found.blocks) == ([], {}, ())


@given(wanted=st.sets(st.sampled_from(sorted(stack(PARENT))), min_size=1))
def test_what_is_wanted_is_linked_as_if_all_were(wanted):
    source, target = stack(PARENT), stack(PARENT[i] for i in (0, 2, 3))
    every, _ = aligned(source, target)
    keys = {f"diffusion_model.{module}.weight" for module in wanted}
    found, _ = aligned(source, target, wanted=keys)
    assert {k: v for k, v in found.links.items() if k in keys} == {
        k: v for k, v in every.links.items() if k in keys
    }
    assert found.pairs == every.pairs


# As given


def test_a_given_pair_goes_before_what_would_be_found():
    source, target = stack(PARENT[:4]), stack(PARENT[1:4])
    without, _ = aligned(source, target)
    assert partners(without) == {0: 1, 1: 2, 2: 3}
    given = {"blocks.1": "blocks.0", "blocks.2": None}
    found, _ = aligned(source, target, given=given)
    assert partners(found) == {0: 1, 1: 0, 2: None}
    assert BlockPair("blocks.0", "blocks.1", ("blocks", "blocks"), GIVEN) in found.blocks
    (link,) = found.links["diffusion_model.blocks.0.mlp.0.weight"]
    assert link.target == "diffusion_model.blocks.1.mlp.0.weight"
    unmatched = {"diffusion_model.blocks.2.mlp.0.weight", "diffusion_model.blocks.3.mlp.0.weight"}
    assert not unmatched & found.links.keys()


def test_given_pairs_of_models_that_line_up_are_not_read():
    given = {"blocks.1": "blocks.0", "blocks.2": None}
    links, found = links_of(tree(shapes_of(3)), tree(shapes_of(3)), given=given)
    key = "diffusion_model.blocks.{}.mlp.0.weight".format
    assert links[key(1)] == key(0)
    assert key(0) not in links
    assert key(2) not in links
    assert found.pairs == {"blocks.0": None, "blocks.1": "blocks.0", "blocks.2": None}
    assert {found.unmatched_source[key(1)], found.unmatched_source[key(2)]} == {
        "blocks.1",
        "blocks.2",
    }


@pytest.mark.parametrize("depth", [2, 3])
def test_a_source_block_may_be_given_to_two(depth):
    given = {"blocks.0": "blocks.0", "blocks.1": "blocks.0", "blocks.2": "blocks.1"}
    links, _ = links_of(tree(shapes_of(depth)), tree(shapes_of(3)), given=given)
    key = "diffusion_model.blocks.{}.mlp.0.weight".format
    assert [links[key(i)] for i in range(3)] == [key(0), key(0), key(1)]


def test_given_within_given():
    given = {"blocks.0.attn.q": "blocks.2.attn.q", "blocks.0": "blocks.1", "blocks.1.mlp.0": None}
    for order in (given, dict(reversed(given.items()))):
        links, _ = links_of(tree(shapes_of(3)), tree(shapes_of(3)), given=order)
        key = "diffusion_model.blocks.{}.{}.weight".format
        assert links[key(0, "attn.q")] == key(2, "attn.q")
        assert links[key(0, "attn.out")] == key(1, "attn.out")
        assert key(1, "mlp.0") not in links
        assert key(1, "attn.q") not in links  # block 0 takes the source's
        assert key(2, "attn.q") not in links
        assert links[key(2, "mlp.0")] == key(2, "mlp.0")


def test_given_inner_blocks():
    source = nested({1: range(2), 2: range(5)})
    target = nested({1: [1], 2: [0, 3, 4]})
    path = "input_blocks.2.1.transformer_blocks"
    given = {f"{path}.1": f"{path}.2", f"{path}.2": None}
    found, _ = aligned(source, target, given=given)
    assert {t[-1]: s and s[-1] for t, s in found.pairs.items() if t.startswith(path)} == {
        "0": "0",
        "1": "2",
        "2": None,
    }
    assert found.pairs["input_blocks.1.1.transformer_blocks.0"].endswith("blocks.1")


@given(kept=st.sets(st.integers(0, 4), min_size=1), inner=st.sets(st.integers(0, 4), min_size=1))
def test_what_was_found_gives_the_same_again(kept, inner):
    source = stack(PARENT[:5]) | nested({1: range(2), 2: range(5)})
    target = stack(PARENT[i] for i in sorted(kept)) | nested({1: [1], 2: sorted(inner)})
    found, _ = aligned(source, target)
    again, read = aligned(source, target, given=found.pairs)
    assert read == []
    assert dict(again.links) == dict(found.links)
    assert (again.pairs, again.unmatched_source) == (found.pairs, found.unmatched_source)
