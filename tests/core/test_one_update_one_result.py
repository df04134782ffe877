"""One update gives one result, whether a file has it as one qkv or as q, k and v."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from prolora.adapters import FullDifference, LoraAdapter
from prolora.adapters.dora import DoraAdapter
from prolora.adapters.loha import LohaAdapter
from prolora.algebra.updates import LowRankUpdate
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights
from prolora.naming.output_names import rename
from prolora.transfer.job import transfer_lora
from prolora.transfer.modes import MODES
from prolora.transfer.settings import TransferSettings

from .dense_reference import dense_pair, dense_project
from .small_models import drifted, file_of, matrix, random_weight
from .stacks import real_weight
from .strategies import relative_error

WIDTH = 16
KEY = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
WHOLE = "lora_unet_double_blocks_0_img_attn_qkv"
PARTS = [f"transformer.transformer_blocks.0.attn.{name}" for name in ("to_q", "to_k", "to_v")]
ROWS = [Slice(0, i * WIDTH, WIDTH) for i in range(3)]
SETTINGS = TransferSettings("full", threshold=0.0, subspace_energy=0.8)


def model(name, weight, parts_named=True):
    names = {WHOLE: WeightRef(KEY)}
    if parts_named:
        names |= {part: WeightRef(KEY, rows) for part, rows in zip(PARTS, ROWS, strict=True)}
    return Model(name, "Flux", StateDictWeights({KEY: weight}), names)


SOURCE = torch.cat([real_weight((WIDTH, WIDTH), seed) for seed in range(3)])
TARGET = drifted(SOURCE)
UP, DOWN = random_weight((3 * WIDTH, 4), 5), random_weight((4, WIDTH), 6)
MAGNITUDE = SOURCE.norm(dim=1, keepdim=True) * (1 + 0.1 * random_weight((3 * WIDTH, 1), 7))


def lora(name, rows=slice(None)):
    return LoraAdapter(name, UP[rows], DOWN, None)


def dora(name, rows=slice(None)):
    return DoraAdapter(lora(name, rows), MAGNITUDE[rows], 0)


def difference(name, rows=slice(None)):
    return FullDifference(name, (UP @ DOWN)[rows])


def dora_of_difference(name, rows=slice(None)):
    return DoraAdapter(difference(name, rows), MAGNITUDE[rows], 0)


FAMILIES = (lora, dora, difference, dora_of_difference)


def span(rows):
    return slice(rows.start, rows.start + rows.length)


def weight_after(result, target):
    """The target's weight with the result, by names: as a loader does it."""
    weight = target.weights.read(KEY).double().clone()
    for adapter in result.adapters:
        part = target.resolve(adapter.name).part or Slice(0, 0, len(weight))
        rows = weight[span(part)]
        after = rows + adapter.update(rows.float()).delta.double()
        if isinstance(adapter, DoraAdapter):
            after = adapter.magnitude * after / after.norm(dim=1, keepdim=True)
        weight[span(part)] = after
    return weight.numpy()


@pytest.mark.parametrize("make", FAMILIES)
@pytest.mark.parametrize("mode", [m.name for m in MODES.values() if not m.needs_recording])
def test_both_spellings(mode, make):
    settings = replace(SETTINGS, mode=mode)
    source, target = model("A", SOURCE), model("B", TARGET)
    whole = transfer_lora(file_of(make(WHOLE)), source, target, settings)
    parts = [make(part, span(rows)) for part, rows in zip(PARTS, ROWS, strict=True)]
    apart = transfer_lora(file_of(*parts), source, target, settings)
    before = TARGET.double().numpy()
    one, other = weight_after(whole, target), weight_after(apart, target)
    assert relative_error(one, before) > 0.01
    assert np.linalg.norm(one - other) < 1e-5 * np.linalg.norm(one - before)
    assert [adapter.name for adapter in whole.adapters] == [WHOLE]


def test_each_part_moves_by_its_own_subspaces():
    source, target = model("A", SOURCE), model("B", TARGET)
    result = transfer_lora(file_of(lora(WHOLE)), source, target, SETTINGS)
    delta = (UP @ DOWN).double().numpy()
    want, as_one = [], dense_project(delta, *_pair(SOURCE, TARGET), "full")
    for rows in ROWS:
        pair = _pair(SOURCE[span(rows)], TARGET[span(rows)])
        want.append(dense_project(delta[span(rows)], *pair, "full"))
    got = weight_after(result, target) - TARGET.double().numpy()
    assert relative_error(as_one, np.concatenate(want)) > 0.1
    assert relative_error(got, np.concatenate(want)) < 1e-5
    assert [row.source_key for row in result.report.rows] == [
        f"{KEY}[{rows.start}:{rows.start + rows.length}]" for rows in ROWS
    ]


def _pair(source, target):
    return dense_pair(matrix(source), matrix(target), 0.8)


@pytest.mark.parametrize("named", [(True, False), (False, True)])
def test_names_of_either_side_will_do(named):
    models = [model(n, w, p) for n, w, p in zip("AB", (SOURCE, TARGET), named, strict=True)]
    both = model("A", SOURCE), model("B", TARGET)
    results = [transfer_lora(file_of(lora(WHOLE)), *pair, SETTINGS) for pair in (models, both)]
    one, other = (weight_after(result, both[1]) for result in results)
    assert np.array_equal(one, other)


def test_a_part_below_the_threshold_stays_behind():
    """And the rest of the module moves, by the name of the whole."""
    target = drifted(SOURCE, 0.05)
    target[ROWS[1].start : ROWS[1].start + WIDTH] = real_weight((WIDTH, WIDTH), 99)
    models = model("A", SOURCE), model("B", target)
    for make in FAMILIES:
        result = transfer_lora(file_of(make(WHOLE)), *models, replace(SETTINGS, threshold=0.8))
        statuses = [row.status for row in result.report.rows]
        assert statuses == ["moved", "skipped", "moved"]
        change = weight_after(result, models[1]) - target.double().numpy()
        assert np.abs(change[span(ROWS[1])]).max() < 1e-5
        assert np.abs(change[span(ROWS[0])]).max() > 1e-3


def test_what_was_joined_is_split_to_its_own_rank():
    """For a naming that has q, k and v."""
    source, target = model("A", SOURCE), model("B", TARGET)
    result = transfer_lora(file_of(lora(WHOLE)), source, target, SETTINGS)
    assert result.adapters[0].rank == 12
    named = rename(result.adapters, target.key_map, "Flux", "diffusers")
    assert [(a.name, a.rank) for a in named.adapters] == [(part, 4) for part in PARTS]


def test_a_part_that_is_identical_is_copied():
    target = TARGET.clone()
    target[span(ROWS[0])] = SOURCE[span(ROWS[0])]
    models = model("A", SOURCE), model("B", target)
    for make in FAMILIES:
        result = transfer_lora(file_of(make(WHOLE)), *models, SETTINGS)
        assert [row.status for row in result.report.rows] == ["copied", "moved", "moved"]
        apart = [make(part, span(rows)) for part, rows in zip(PARTS, ROWS, strict=True)]
        other = transfer_lora(file_of(*apart), *models, SETTINGS)
        both = [weight_after(found, models[1]) for found in (result, other)]
        assert np.abs(both[0] - both[1]).max() < 1e-5


def test_a_part_that_the_lora_has_nothing_for_is_no_row():
    up = UP.clone()
    up[span(ROWS[0])] = 0
    models = model("A", SOURCE), model("B", TARGET)
    result = transfer_lora(file_of(LoraAdapter(WHOLE, up, DOWN, None)), *models, SETTINGS)
    assert [row.status for row in result.report.rows] == ["moved", "moved"]
    assert result.adapters[0].rank == 8


def test_an_update_of_nothing_is_reported():
    models = model("A", SOURCE), model("B", TARGET)
    result = transfer_lora(file_of(LoraAdapter(WHOLE, 0 * UP, DOWN, None)), *models, SETTINGS)
    assert [(row.status, row.reason) for row in result.report.rows] == [
        ("skipped", "its update is zero")
    ]


@pytest.mark.parametrize("mode", ["copy", "full"])
@pytest.mark.parametrize("drift", [0.0, 0.5])
@pytest.mark.parametrize("make", FAMILIES)
def test_both_spellings_at_a_chosen_rank(make, drift, mode):
    settings = replace(SETTINGS, mode=mode, rank=2)
    source, target = model("A", SOURCE), model("B", drifted(SOURCE, drift))
    whole = transfer_lora(file_of(make(WHOLE)), source, target, settings)
    parts = [make(part, span(rows)) for part, rows in zip(PARTS, ROWS, strict=True)]
    apart = transfer_lora(file_of(*parts), source, target, settings)
    before = target.weights.read(KEY).double().numpy()
    one, other = weight_after(whole, target), weight_after(apart, target)
    assert relative_error(one, before) > 0.01
    assert np.linalg.norm(one - other) < 1e-5 * np.linalg.norm(one - before)


def test_a_full_difference_beside_loras_is_joined_whole():
    """Mode casa makes a LoRA of a difference that moves; one part is identical, and stays one."""
    target = TARGET.clone()
    target[span(ROWS[0])] = SOURCE[span(ROWS[0])]
    models = model("A", SOURCE), model("B", target)
    result = transfer_lora(file_of(difference(WHOLE)), *models, replace(SETTINGS, mode="casa"))
    assert [row.status for row in result.report.rows] == ["copied", "moved", "moved"]
    parts = [difference(part, span(rows)) for part, rows in zip(PARTS, ROWS, strict=True)]
    apart = transfer_lora(file_of(*parts), *models, replace(SETTINGS, mode="casa"))
    one, other = (weight_after(found, models[1]) for found in (result, apart))
    for rows in ROWS:
        change = np.linalg.norm((one - target.double().numpy())[span(rows)])
        assert change > 0.1
        assert np.linalg.norm((one - other)[span(rows)]) < 1e-5 * change


def test_an_identical_part_of_a_loha_is_exact():
    w1 = LowRankUpdate(random_weight((3 * WIDTH, 2), 1), random_weight((2, WIDTH), 2))
    w2 = LowRankUpdate(random_weight((3 * WIDTH, 3), 3), random_weight((3, WIDTH), 4))
    parts = {"hada_w1_a": w1.up, "hada_w1_b": w1.down, "hada_w2_a": w2.up, "hada_w2_b": w2.down}
    loha = LohaAdapter(WHOLE, w1, w2, 1.0, parts=parts)
    target = TARGET.clone()
    target[span(ROWS[0])] = SOURCE[span(ROWS[0])]
    result = transfer_lora(file_of(loha), model("A", SOURCE), model("B", target), SETTINGS)
    change = weight_after(result, model("B", target)) - target.double().numpy()
    want = (w1.delta * w2.delta).double().numpy()[span(ROWS[0])]
    assert relative_error(change[span(ROWS[0])], want) < 1e-5
