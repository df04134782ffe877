"""What blocks that nothing serves get of their neighbours' updates, by the dense reference."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prolora.adapters import FullDifference
from prolora.adapters.dora import DoraAdapter
from prolora.errors import ProLoRAError
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.recording.calibrated import transfer_recorded
from prolora.transfer.job import transfer_lora
from prolora.transfer.report_text import summary_of
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from . import running_models as running
from .dense_reference import dense_pair, dense_project
from .small_models import delta, file_of, matrix, random_weight
from .stacks import BLOCK, Weights, block, by_name, lora_for, model, noisy, stack
from .strategies import relative_error

PARENT = [block(seed) for seed in range(3)]
SOURCE = stack(PARENT)
FILE = lora_for(SOURCE)
UPDATES = {adapter.name: delta(adapter) for adapter in FILE.adapters}
RANK = 3


def mean(one: Weights, other: Weights) -> Weights:
    return {name: (weight + other[name]) / 2 for name, weight in one.items()}


COPY = noisy(PARENT[0], 0.1, 50)
MEAN = noisy(mean(PARENT[1], PARENT[2]), 0.1, 51)
CHILD = [PARENT[0], COPY, noisy(PARENT[1], 0.15), MEAN, noisy(PARENT[2], 0.15)]
NEIGHBOURS = {1: (0, 1), 3: (1, 2)}  # block of the child -> those of the parent beside it


def run(settings, target=CHILD, file=FILE, source=SOURCE):
    return transfer_lora(file, model("A", source), model("B", stack(target)), settings)


def name_in(i: int, module: str) -> str:
    return f"lora_unet_blocks_{i}_{module.replace('.', '_')}"


def moved(parent: int, module: str, weight: torch.Tensor, mode: str) -> np.ndarray:
    update = UPDATES[name_in(parent, module)]
    if mode in ("alike", "copy"):
        return update
    return dense_project(
        update, *dense_pair(matrix(PARENT[parent][module]), matrix(weight), 0.8), mode
    )


def cut(update: np.ndarray, rank: int) -> np.ndarray:
    U, s, Vh = np.linalg.svd(update, full_matrices=False)
    return (U[:, :rank] * s[:rank]) @ Vh[:rank]


@pytest.mark.parametrize("mode", ["alike", "full", "prolora", "subspace", "copy"])
@given(strength=st.floats(0.01, 1.0), rank=st.sampled_from((0, 2, 4 * RANK)))
def test_the_mean_of_both_neighbours(mode, strength, rank):
    """At threshold 0 both count; each is moved to the weight of the block itself."""
    made = by_name(run(TransferSettings(mode, 0.0, rank=rank, unserved=strength)).adapters)
    without = by_name(run(TransferSettings(mode, 0.0, rank=rank)).adapters)
    for at, both in NEIGHBOURS.items():
        for module in BLOCK:
            name = name_in(at, module)
            assert name not in without
            each = [moved(parent, module, CHILD[at][module], mode) for parent in both]
            each = [cut(update, rank or RANK) for update in each]
            wanted = strength * cut((each[0] + each[1]) / 2, rank or RANK)
            assert relative_error(strength * each[0], wanted) > 0.2
            assert relative_error(delta(made[name]), wanted) < 1e-5
    for name, adapter in without.items():  # nothing else changes
        assert torch.equal(adapter.up, made[name].up)


def test_a_copy_takes_its_own_alone():
    """By the threshold: the other neighbour is not like it."""
    result = run(TransferSettings("full", threshold=0.8, unserved=0.5))
    made = by_name(result.adapters)
    for module in BLOCK:
        wanted = 0.5 * moved(0, module, COPY[module], "full")
        assert relative_error(wanted / 2, wanted) > 0.1
        assert relative_error(delta(made[name_in(1, module)]), wanted) < 1e-5
        assert made[name_in(1, module)].rank == RANK
    rows = [row for row in result.report.rows if "blocks.1." in row.target_key]
    assert [(row.status, row.shared_from) for row in rows] == [("shared", "blocks.0")] * len(BLOCK)
    assert all(row.reason == "0.5 of what goes to its neighbour" for row in rows)


def test_what_is_like_no_neighbour_is_left_and_told():
    child = [PARENT[0], block(700), *PARENT[1:]]
    result = run(TransferSettings(threshold=0.9, unserved=1.0), child)
    assert not any("blocks_1_" in name for name in by_name(result.adapters))
    rows = [row for row in result.report.rows if row.shared_from]
    assert {row.status for row in rows} == {"skipped"}
    assert {row.shared_from for row in rows} == {"blocks.0", "blocks.1"}
    assert all(row.reason.endswith("for a block that nothing serves") for row in rows)


def test_the_summary_tells():
    said = summary_of(run(TransferSettings(threshold=0.8, unserved=0.25)).report)
    assert "3 shared with blocks that nothing serves, 0.25 of what goes to their neighbours" in said
    assert "shared" not in summary_of(run(TransferSettings(threshold=0.8)).report)


def test_a_block_at_an_end_has_one_neighbour():
    child = [noisy(PARENT[0], 0.1), *PARENT]  # the first is a worse match than the parent's own
    made = by_name(run(TransferSettings("full", 0.0, unserved=1.0), child).adapters)
    for module in BLOCK:
        wanted = moved(0, module, child[0][module], "full")
        assert relative_error(delta(made[name_in(0, module)]), wanted) < 1e-5


def test_the_same_weights_share_the_update_as_it_is():
    child = [PARENT[0], PARENT[0], *PARENT[1:]]
    result = run(TransferSettings(threshold=0.8, unserved=0.5), child)
    made = by_name(result.adapters)
    assert result.report.pairs["blocks.0"] == "blocks.0"
    for module in BLOCK:
        update = UPDATES[name_in(0, module)]
        assert relative_error(delta(made[name_in(1, module)]), 0.5 * update) < 1e-6


def test_a_block_that_a_user_left_alone_stays_alone():
    settings = TransferSettings(threshold=0.0, unserved=1.0, pairs={"blocks.1": None})
    made = by_name(run(settings).adapters)
    assert not any("blocks_1_" in name for name in made)
    assert any("blocks_3_" in name for name in made)


def test_full_differences_are_added_up():
    shape = tuple(SOURCE["blocks.1.attn.q"].shape)
    names = [name_in(parent, "attn.q") for parent in (1, 2)]
    file = file_of(*(FullDifference(n, random_weight(shape, 3 + i)) for i, n in enumerate(names)))
    made = by_name(run(TransferSettings("copy", unserved=0.5), file=file).adapters)
    found = made[name_in(3, "attn.q")]
    assert isinstance(found, FullDifference)
    wanted = 0.25 * sum(adapter.diff for adapter in file.adapters)
    assert torch.allclose(found.diff, wanted, atol=1e-6)


def test_a_dora_is_not_shared_and_told():
    lora = FILE.adapters[0]
    dora = DoraAdapter(lora, torch.ones(lora.up.shape[0], 1), axis=0)
    result = run(TransferSettings("copy", unserved=1.0), file=file_of(dora))
    assert [adapter.name for adapter in result.adapters] == [lora.name]
    (row,) = [row for row in result.report.rows if row.status == "skipped"]
    assert "DoRA" in row.reason
    assert "not shared" in row.reason


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ProLoRAError, match="from 0 to 1"):
        replace(TransferSettings(), unserved=share)


def test_with_a_recording_a_share_is_calibrated():
    """To what the neighbour read in the source, by what the unserved block is given."""
    file = running.lora_file("qkv", "proj")
    recording = running.recorded(file)
    target = running.drifted(0.1)
    target.blocks.append(copy.deepcopy(target.blocks[0]))
    inside = {f"{name} of 1": (f"blocks.1.{name}.weight", None) for name in ("qkv", "proj")}
    names = {name: WeightRef(*place) for name, place in (running.NAMES | inside).items()}
    weights = StateDictWeights(target.state_dict())
    result = transfer_recorded(
        resolve(file, running.model_of(running.source())),
        Model("B", "Small", weights, names),
        recording,
        running.network_of(target),
        TransferSettings(threshold=0.0, unserved=1.0),
    )
    made = {adapter.name: delta(adapter) for adapter in result.adapters}
    assert made.keys() == {"qkv", "proj", "qkv of 1", "proj of 1"}
    off = [row.measures.readouts_off for row in result.report.rows if row.status == "shared"]
    assert len(off) == 4  # q, k and v by themselves
    for copied, fitted in off:
        assert copied > 0.05
        assert fitted < copied
    assert relative_error(made["proj of 1"], made["proj"]) > 0.01  # of other inputs
