"""What is kept between jobs: the same results bit for bit, within its limit, never stale."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prolora.algebra.kept import LIMIT, NOTHING_KEPT, Kept
from prolora.algebra.maps import PROJECTION_MODES
from prolora.errors import ProLoRAError
from prolora.models.model import Model
from prolora.pairing import block_similarity
from prolora.transfer import maps
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from .small_models import drifted, file_of, model_of, random_lora, random_weight
from .small_transfer import DRIFTED, FILE, WEIGHTS
from .stacks import block, lora_for, model, noisy, stack

LOW = TransferSettings("full", threshold=0.1)
MODES = ("full", "prolora", "subspace", "casa", "cross_width", "copy")
CHOICES = st.builds(
    TransferSettings,
    mode=st.sampled_from(MODES),
    threshold=st.sampled_from((0.0, 0.75, 0.8, 1.0)),
    rank=st.sampled_from((0, 2, 3)),
    subspace_energy=st.sampled_from((0.6, 0.8)),
)


def moved(settings=LOW, kept=NOTHING_KEPT, source=WEIGHTS, target=DRIFTED, file=FILE, **more):
    lora = resolve(file, model_of("A", source))
    return transfer_resolved(lora, model_of("B", target), settings, kept=kept, **more)


def assert_equal(one, other):
    """Every bit of the tensors and every figure of the report."""
    assert one.report == other.report
    for ours, theirs in zip(one.adapters, other.adapters, strict=True):
        mine, yours = ours.tensors(), theirs.tensors()
        assert mine.keys() == yours.keys()
        assert all(torch.equal(mine[role], yours[role]) for role in mine)


@given(st.lists(CHOICES, min_size=2, max_size=4), st.sampled_from((0, 3000, 20_000, LIMIT)))
def test_what_is_kept_changes_no_bit(jobs, limit):
    kept = Kept(limit)
    for settings in jobs:
        assert_equal(moved(settings, kept), moved(settings))
        assert kept.held <= limit


def refuse(*arguments):
    raise AssertionError("it was computed again")


def test_another_threshold_rank_or_mode_decomposes_nothing(monkeypatch):
    kept = Kept(limit=40_000)  # the factors and figures, not all the bases
    moved(kept=kept)
    monkeypatch.setattr(maps, "common_subspaces_of_many", refuse)
    monkeypatch.setattr(Model, "weight", refuse)  # nor is a weight converted or checked
    for mode in ("full", "prolora", "subspace"):
        for threshold, rank in ((0.0, 0), (0.8, 2), (1.0, 3)):
            moved(TransferSettings(mode, threshold, rank=rank), kept)
    with pytest.raises(AssertionError, match="again"):
        moved(TransferSettings("full", subspace_energy=0.7), kept)


def test_another_lora_between_the_same_models_decomposes_nothing(monkeypatch):
    other = file_of(*(random_lora(name, w.shape, 3, seed=9) for name, w in WEIGHTS.items()))
    kept = Kept()
    moved(kept=kept)
    afresh = moved(file=other)
    monkeypatch.setattr(maps, "common_subspaces_of_many", refuse)
    assert_equal(moved(kept=kept, file=other), afresh)


def test_a_weight_that_was_replaced_under_its_name_is_another():
    kept, target = Kept(), {name: weight.clone() for name, weight in DRIFTED.items()}
    before = moved(kept=kept, target=target)
    target["linear"][0, 0] += 0.25  # in place: the same tensor, the same model
    after = moved(kept=kept, target=target)
    assert not torch.equal(before.adapters[0].up, after.adapters[0].up)
    assert_equal(after, moved(target=target))


def test_maps_that_keep_in_a_job_that_does_not_take_no_weight_for_another():
    weights = {name: random_weight((12, 8), seed) for seed, name in enumerate(("one", "other"))}
    others = {name: drifted(weight) for name, weight in weights.items()}
    file = file_of(*(random_lora(name, (12, 8), 2, seed=9) for name in weights))
    job = {"settings": replace(LOW, mode="full"), "source": weights, "target": others}
    projecting = maps.SubspaceMaps(PROJECTION_MODES["full"], LOW.subspace_energy, Kept())
    afresh = moved(**job, file=file)
    assert len({row.measures.similarity for row in afresh.report.rows}) == len(weights)
    assert_equal(moved(**job, file=file, maps=projecting), afresh)


@pytest.mark.parametrize("modules", [0, 1, 2])
def test_a_job_that_was_cancelled_leaves_nothing_half_made(modules):
    def cancel(done, total, name):
        if done == modules and total > 1:
            raise KeyboardInterrupt

    kept = Kept()
    with pytest.raises(KeyboardInterrupt):
        moved(kept=kept, progress=cancel)
    assert_equal(moved(kept=kept), moved())


def test_a_job_that_failed_leaves_nothing_half_made():
    broken = {name: weight.clone() for name, weight in DRIFTED.items()}
    broken["conv 3x3"][0] = torch.nan
    kept = Kept()
    with pytest.raises(ProLoRAError, match="NaN"):
        moved(kept=kept, target=broken)
    assert_equal(moved(kept=kept), moved())


def test_threads_share_it():
    kept, jobs = Kept(limit=30_000), [LOW, TransferSettings("prolora", 0.0)] * 4
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda settings: moved(settings, kept), jobs))
    for settings, result in zip(jobs, found, strict=True):
        assert_equal(result, moved(settings))
    assert kept.held <= 30_000


def test_an_alignment_of_blocks_measures_none_twice(monkeypatch):
    parents = [block(seed) for seed in range(4)]
    source, target = stack(parents), stack([noisy(parents[i], 0.15, i) for i in (0, 2, 3)])
    job = resolve(lora_for(source), model("A", source)), model("B", target), LOW
    kept = Kept()
    first = transfer_resolved(*job, kept=kept)
    assert first.report.pairs["blocks.1"] == "blocks.2"  # it was aligned
    monkeypatch.setattr(block_similarity, "randomized_subspace", refuse)
    assert_equal(transfer_resolved(*job, kept=kept), first)
    with pytest.raises(AssertionError, match="again"):
        transfer_resolved(*job)


def test_the_large_gives_way_to_the_small_and_the_old_to_the_new():
    def numbers(size):
        return lambda: (torch.zeros(size, dtype=torch.uint8),)

    cpu, kept = torch.device("cpu"), Kept(limit=100_000)
    asked = []

    def ask(key, size):
        kept.tensors(key, lambda: (asked.append(key), numbers(size)())[1], cpu)

    kept.begin_job()
    ask("a", 60_000)
    ask("b", 60_000)  # no larger than a, which this job has used
    ask("c", 50_000)  # smaller than a, which gives way
    ask("c", 50_000)
    assert asked == ["a", "b", "c"]
    kept.begin_job()
    ask("a", 60_000)  # c is of an earlier job
    ask("a", 60_000)
    ask("c", 50_000)
    assert asked == ["a", "b", "c", "a", "c"]
    assert 0 < kept.held <= 100_000
