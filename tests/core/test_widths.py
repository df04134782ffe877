"""Mode cross_width: from one width to another, opt-in and experimental."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prolora.algebra.leading import common_subspaces_of_many, leading_subspace
from prolora.algebra.subspace import Subspace
from prolora.algebra.updates import DenseUpdate, LowRankUpdate
from prolora.algebra.widths import similarity_across, with_signs
from prolora.errors import ProLoRAError
from prolora.transfer import maps
from prolora.transfer.job import transfer_lora
from prolora.transfer.report_text import summary_of, warning_of
from prolora.transfer.settings import TransferSettings

from .dense_reference import dense_across
from .small_models import (
    delta,
    drifted,
    file_of,
    matrix,
    model_of,
    move,
    random_lora,
    random_weight,
)
from .stacks import block, by_name, lora_for, model, real_weight, stack, with_noise
from .strategies import project, relative_error

ENERGY = 0.8
# source, target: wider, narrower, one side only, convolutions
SHAPES = [
    ((24, 16), (48, 32)),
    ((48, 32), (24, 16)),
    ((24, 16), (24, 32)),
    ((24, 16), (40, 16)),
    ((12, 6, 3, 3), (20, 10, 3, 3)),
    ((12, 6, 3, 3), (12, 10, 3, 3)),
    ((24, 16, 1, 1), (48, 32)),
    ((24, 16), (48, 32, 1, 1)),
]


def across(lora, source, target, **choices):
    return move(lora, source, target, mode="cross_width", subspace_energy=ENERGY, **choices)


@pytest.mark.parametrize(("ours", "theirs"), SHAPES)
def test_as_the_formula_says(ours, theirs):
    source, target = real_weight(ours, 1), real_weight(theirs, 2)
    lora = random_lora("layer", ours)
    moved, row = across(lora, source, target)
    wanted = dense_across(delta(lora), matrix(source), matrix(target), ENERGY)
    assert moved.up.shape[0] == theirs[0]
    assert tuple(moved.down.shape[1:]) == theirs[1:]
    assert relative_error(delta(moved), wanted) < 1e-5
    assert relative_error(-delta(moved), wanted) > 1
    assert row.energy_kept == pytest.approx((wanted**2).sum() / (delta(lora) ** 2).sum(), rel=1e-4)
    assert 0 < row.energy_kept <= 1
    assert "another width, which is experimental" in row.reason
    assert (row.source_shape, row.target_shape) == (ours, theirs)


@pytest.mark.parametrize(("ours", "theirs"), SHAPES)
def test_the_signs_of_the_svd_do_not_count(ours, theirs, monkeypatch):
    """Another library, or another device, gives the same vectors in other signs."""
    source, target = real_weight(ours, 1), real_weight(theirs, 2)
    lora = random_lora("layer", ours)
    plain, _ = across(lora, source, target)
    random = np.random.default_rng(0)

    def turned(found):
        signs = torch.tensor(random.choice([-1.0, 1.0], found.rank), dtype=found.U.dtype)
        return Subspace(found.U * signs, found.V * signs, found.shares)

    def other_signs(*arguments):
        return [
            replace(found, source=turned(found.source), target=turned(found.target))
            for found in common_subspaces_of_many(*arguments)
        ]

    with_others = []
    monkeypatch.setattr(maps, "common_subspaces_of_many", other_signs)
    for _ in range(4):
        with_others.append(delta(across(lora, source, target)[0]))
    monkeypatch.setattr(maps, "with_signs", lambda *subspaces: subspaces)
    without_signs = [delta(across(lora, source, target)[0]) for _ in range(4)]
    assert max(relative_error(made, delta(plain)) for made in with_others) < 1e-5
    assert max(relative_error(made, delta(plain)) for made in without_signs) > 0.5


@given(st.integers(0, 1000))
def test_signs(seed):
    random = np.random.default_rng(seed)
    pair = [leading_subspace(random_weight(s, seed), 0.7) for s in ((24, 16), (40, 32))]
    flipped = []
    for subspace in pair:
        signs = torch.tensor(random.choice([-1.0, 1.0], subspace.rank), dtype=torch.float32)
        flipped.append(Subspace(subspace.U * signs, subspace.V * signs, subspace.shares))
    for one, other in zip(with_signs(*pair), with_signs(*flipped), strict=True):
        assert torch.equal(one.U, other.U)
        assert torch.equal(one.V, other.V)
        products = [(s.U * s.shares.sqrt().float()) @ s.V.T for s in (one, other)]
        assert torch.equal(*products)


@pytest.mark.parametrize("shape", [(24, 16), (12, 6, 3, 3)])
def test_where_the_widths_agree_it_is_full(shape):
    source = real_weight(shape, 1)
    target, lora = drifted(source), random_lora("layer", shape)
    aligned, row = across(lora, source, target)
    full, _ = move(lora, source, target, mode="full", subspace_energy=ENERGY)
    assert torch.equal(aligned.up, full.up)
    assert torch.equal(aligned.down, full.down)
    assert row.reason == ""


@given(seed=st.integers(0, 1000), theirs=st.sampled_from([(40, 32), (24, 32), (12, 8), (40, 16)]))
def test_dense_and_factored_agree(seed, theirs):
    weights = random_weight((24, 16), seed), random_weight(theirs, seed + 1)
    subspaces = with_signs(*(leading_subspace(weight, 0.7) for weight in weights))
    update = LowRankUpdate(random_weight((24, 3), seed + 2), random_weight((3, 16), seed + 3))
    factored = project(update, *subspaces, "cross_width").delta.numpy()
    dense = project(DenseUpdate(update.delta), *subspaces, "cross_width").delta.numpy()
    assert dense.shape == theirs
    assert relative_error(factored, dense) < 1e-5


# Similarity


def test_a_side_of_one_width_has_its_subspaces_compared():
    source = real_weight((24, 16), 1)
    wider = torch.cat([source, with_noise(source, 0.05, 3)], dim=1)
    other = real_weight((24, 32), 9)
    near, far = (
        similarity_across(*(leading_subspace(weight, ENERGY) for weight in (source, target)))
        for target in (wider, other)
    )
    assert far.left < 0.8 < near.left
    assert near.left_chance > 0
    assert math.isnan(near.right_chance)


EDGES = {
    "zero both": (torch.zeros(8, 8), torch.zeros(16, 16), 0.0),
    "zero source": (torch.zeros(8, 8), random_weight((16, 16)), 0.0),
    "zero target": (random_weight((8, 8)), torch.zeros(16, 16), 0.0),
    "rank 1": (torch.ones(8, 8), torch.ones(16, 16), 1.0),
    "rank 1 and more": (torch.ones(8, 8), random_weight((16, 16)), 1.0),
    "one row": (random_weight((1, 8)), random_weight((1, 16)), 1.0),
    "a number": (random_weight((1, 1)), random_weight((2, 2)), 1.0),
    "tiny": (1e-30 * torch.ones(8, 8), torch.ones(16, 16), 1.0),
}


@pytest.mark.parametrize("kind", EDGES)
def test_edges_of_the_spectra(kind):
    source, target, expected = EDGES[kind]
    similarity = similarity_across(
        *(leading_subspace(weight, ENERGY) for weight in (source, target))
    )
    assert similarity.score == pytest.approx(expected, abs=1e-6)
    assert math.isnan(similarity.left_corrected) or source.shape[0] == target.shape[0]
    lora = random_lora("layer", tuple(source.shape), rank=1)
    moved, row = across(lora, source, target)
    assert torch.isfinite(moved.up).all()
    assert torch.isfinite(moved.down).all()
    assert row.as_dict()["phi_left"] is not None


@given(st.integers(0, 1000), st.integers(2, 30), st.integers(2, 30))
def test_figures_are_in_their_range(seed, m, n):
    weights = random_weight((8, 12), seed), random_weight((m, n), seed + 1)
    similarity = similarity_across(*(leading_subspace(weight, ENERGY) for weight in weights))
    assert 0 <= similarity.left <= 1
    assert 0 <= similarity.right <= 1


# The whole job


def scaled(shapes, factor):
    return {name: tuple(factor * side for side in shape) for name, shape in shapes.items()}


SMALL = {"attn.q": (8, 8), "attn.out": (24, 8), "mlp.0": (32, 8)}


def two_sizes():
    """As Wan's 1.3B and 14B: three blocks of 8, four of 16."""
    source = stack(block(i, SMALL) for i in range(3))
    target = stack(block(40 + i, scaled(SMALL, 2)) for i in range(4))
    return source, target


def test_other_depths_and_other_widths():
    source, target = two_sizes()
    settings = TransferSettings(mode="cross_width", threshold=0.0)
    result = transfer_lora(lora_for(source), model("A", source), model("B", target), settings)
    pairs = {t[-1]: s and s[-1] for t, s in result.report.pairs.items()}
    taken = [int(s) for s in pairs.values() if s is not None]
    assert taken == [0, 1, 2]
    assert (pairs["0"], pairs["3"]) == ("0", "2")
    for name, adapter in by_name(result.adapters).items():
        shape = target[next(m for m in target if m.replace(".", "_") in name)].shape
        assert (adapter.up.shape[0], adapter.down.shape[1]) == shape
    assert len(result.adapters) == 9
    assert any("by shape" in note and "without" not in note for note in result.report.notes)
    assert "energy kept" in summary_of(result.report)
    assert "9 moved, but to another width, which is experimental" in summary_of(result.report)


@pytest.mark.parametrize("factor", [2, 10])
@pytest.mark.parametrize("depths", [(3, 4), (4, 3), (1, 3), (6, 9)])
def test_every_block_of_the_shorter_list_has_a_partner(depths, factor):
    shapes = {"a": (8, 8), "b": (16, 8)}
    source = stack(block(i, shapes) for i in range(depths[0]))
    target = stack(block(40 + i, scaled(shapes, factor)) for i in range(depths[1]))
    settings = TransferSettings(mode="cross_width", threshold=0.0)
    result = transfer_lora(lora_for(source), model("A", source), model("B", target), settings)
    assert len(result.adapters) == 2 * min(depths)
    assert not any("shapes differ" in row.reason for row in result.report.rows)


def test_blocks_of_two_kinds_are_paired_by_their_kind():
    """Every third block has a cross attention, and takes a block that has one too."""

    def kind(seed, factor, cross):
        shapes = SMALL | ({"cross.k": (8, 24), "cross.v": (8, 24)} if cross else {})
        return block(seed, scaled(shapes, factor))

    source = stack(kind(i, 1, i == 1) for i in range(3))
    target = stack(kind(40 + i, 2, i == 2) for i in range(4))
    settings = TransferSettings(mode="cross_width", threshold=0.0)
    result = transfer_lora(lora_for(source), model("A", source), model("B", target), settings)
    assert result.report.pairs["blocks.2"] == "blocks.1"


@pytest.mark.parametrize("depths", ["same", "different"])
def test_without_the_opt_in(depths):
    source, target = two_sizes()
    if depths == "same":
        target = {name: weight for name, weight in target.items() if "blocks.3" not in name}
    for mode in ("full", "copy", "casa", "prolora"):
        settings = TransferSettings(mode=mode, threshold=0.0)
        with pytest.raises(ProLoRAError) as error:
            transfer_lora(lora_for(source), model("A", source), model("B", target), settings)
        words = str(error.value)
        assert "their widths differ" in words
        assert "8 x 8 in the source, 16 x 16 in the target" in words
        assert "mode cross_width, which is experimental" in words


def test_without_the_opt_in_what_agrees_is_moved():
    source = {"same": random_weight((16, 16)), "wider": random_weight((16, 16), 1)}
    target = {"same": drifted(source["same"]), "wider": random_weight((32, 32), 1)}
    file = lora_for(source)
    result = transfer_lora(
        file, model("A", source), model("B", target), TransferSettings(threshold=0.0)
    )
    assert [adapter.name for adapter in result.adapters] == ["lora_unet_same"]
    note = "1 modules have no place of their width in the target. Mode cross_width"
    assert any(line.startswith(note) for line in result.report.notes)
    settings = TransferSettings(mode="cross_width", threshold=0.0)
    aligned = transfer_lora(file, model("A", source), model("B", target), settings)
    assert len(aligned.adapters) == 2
    assert not any("Mode cross_width" in line for line in aligned.report.notes)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [((12, 6, 3, 3), (20, 10, 5, 5)), ((12, 6, 3, 3), (20, 10)), ((12, 6, 3, 3), (20, 10, 1, 1))],
)
def test_other_kernels(ours, theirs):
    source, target = {"layer": random_weight(ours)}, {"layer": random_weight(theirs)}
    settings = TransferSettings(mode="cross_width", threshold=0.0)
    file = file_of(random_lora("layer", ours))
    with pytest.raises(ProLoRAError) as error:
        transfer_lora(file, model_of("A", source), model_of("B", target), settings)
    assert "mode cross_width" not in str(error.value)
    assert "kernel" in str(error.value)


def test_a_rank_larger_than_possible():
    source, target = random_weight((24, 16)), random_weight((12, 8))
    lora = random_lora("layer", (24, 16))
    with pytest.raises(
        ProLoRAError, match=r"rank 9 is larger than possible.*12 x 8, which has rank 8"
    ):
        across(lora, source, target, rank=9)
    moved, _ = across(lora, source, target, rank=2)
    assert moved.rank == 2


def test_another_context_is_another_width():
    """SD1.5 and SDXL: as wide, but for what the cross-attention reads, and of other depths."""
    shapes = {"attn1.q": (16, 16), "attn1.out": (16, 16), "attn2.q": (16, 16), "mlp.0": (32, 16)}
    small, large = ({**shapes, f"attn2.{kv}": (16, n)} for kv, n in (("k", 8), ("k", 24)))
    small, large = ({**s, "attn2.v": s["attn2.k"]} for s in (small, large))
    source = stack([block(i, small) for i in range(2)])
    target = stack([block(50 + i, large) for i in range(4)])
    models = model("A", source), model("B", target)
    with pytest.raises(
        ProLoRAError, match=r"widths differ .*16 x 8 in the source, 16 x 24 in the t"
    ):
        transfer_lora(lora_for(source), *models, TransferSettings(threshold=0.0))
    high = transfer_lora(lora_for(source), *models, TransferSettings(mode="cross_width"))
    assert "a threshold of 0 moves all that has a place" in warning_of(high.report)
    moved = transfer_lora(
        lora_for(source), *models, TransferSettings(mode="cross_width", threshold=0.0)
    )
    assert len(moved.adapters) == len(source)
    assert "of the spectra alone" not in summary_of(moved.report)
