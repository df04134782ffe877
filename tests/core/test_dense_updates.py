"""Updates without a low rank: the same invariants, against the same dense reference."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from prolora.algebra import updates
from prolora.algebra.leading import leading_subspace
from prolora.algebra.quadrants import quadrants_of
from prolora.algebra.updates import DenseUpdate

from .dense_reference import dense_project, dense_quadrants, dense_subspace
from .strategies import Case, cases, project, relative_error, spectrum
from .strategies import dense as product


def formed(case: Case) -> DenseUpdate:
    return DenseUpdate(torch.tensor(case.delta, dtype=torch.float32))


def subspaces(case: Case):
    return tuple(leading_subspace(w, case.energy) for w in (case.source, case.target))


@pytest.fixture(autouse=True, params=[3, 2048])
def block(request, monkeypatch):
    """Small blocks, so that every case has several, the last of them smaller."""
    monkeypatch.setattr(updates, "_BLOCK", request.param)


@pytest.mark.parametrize("mode", ["full", "prolora", "subspace"])
@given(case=cases())
def test_project(mode: str, case: Case):
    pair = (dense_subspace(w.numpy(), case.energy) for w in (case.source, case.target))
    want = dense_project(case.delta, *pair, mode)
    scale = np.linalg.norm(case.delta)
    assume(np.linalg.norm(case.delta - want) > 1e-3 * scale)
    got = project(formed(case), *subspaces(case), mode)
    assert np.linalg.norm(got.delta.double().numpy() - want) < 1e-5 * scale


@given(case=cases())
def test_quadrants_and_energy(case: Case):
    source, _ = subspaces(case)
    total = np.linalg.norm(case.delta) ** 2
    want = dense_quadrants(case.delta, dense_subspace(case.source.numpy(), case.energy))
    got = quadrants_of(formed(case), source)
    for part, value in asdict(got).items():
        assert value == pytest.approx(np.linalg.norm(want[part]) ** 2, abs=1e-5 * total)
    assert formed(case).energy() == pytest.approx(total, rel=1e-6)
    assert got.total == pytest.approx(total, rel=1e-5)


@given(case=cases(), rank=st.integers(1, 45))
def test_cut_is_the_best_one(case: Case, rank: int):
    U, s, Vh = np.linalg.svd(case.delta, full_matrices=False)
    best = (U[:, :rank] * s[:rank]) @ Vh[:rank]
    cut = formed(case).truncate(rank)
    assert cut.factors.rank <= min(rank, *case.delta.shape)
    scale = np.linalg.norm(case.delta)
    # Equal to the best cut in what it misses, not in its vectors: two values may be alike.
    missed = np.linalg.norm(case.delta - product(cut.factors))
    assert missed == pytest.approx(np.linalg.norm(case.delta - best), abs=1e-5 * scale)
    assert cut.dropped == pytest.approx((missed / scale) ** 2, abs=1e-5)
    assert np.allclose(cut.factors.up.norm(dim=0), cut.factors.down.norm(dim=1), rtol=1e-4)


@pytest.mark.parametrize("shape", [(30, 20), (20, 30), (20, 20)])
@pytest.mark.parametrize(("decay", "rank"), [(0.0, 20), (1.0, 15), (3.0, 2)])
def test_rank_0_is_the_smallest_that_keeps_99_percent(shape, decay, rank):
    values = np.arange(1, 21) ** -decay
    delta = spectrum(np.random.default_rng(0), *shape, values)
    cut = DenseUpdate(torch.tensor(delta, dtype=torch.float32)).truncate(0)
    assert cut.factors.rank == rank
    held = np.cumsum(values**2) / (values**2).sum()
    assert held[rank - 1] >= 0.99 > (held[rank - 2] if rank > 1 else 0)
    assert cut.dropped == pytest.approx(1 - held[rank - 1], abs=1e-6)
    assert relative_error(product(cut.factors), delta) ** 2 < 0.0101


def test_all_of_it():
    delta = spectrum(np.random.default_rng(0), 30, 20, np.arange(1, 21) ** -3.0)
    cut = DenseUpdate(torch.tensor(delta, dtype=torch.float32)).truncate(20)
    assert relative_error(product(cut.factors), delta) < 1e-6


@pytest.mark.parametrize("rank", [0, 3])
def test_an_update_of_nothing(rank):
    """An untrained module: a LoRA of rank 1 that changes nothing, and no NaN."""
    cut = DenseUpdate(torch.zeros(6, 4)).truncate(rank)
    assert (cut.factors.rank, cut.dropped) == (1, 0)
    assert not product(cut.factors).any()
    assert DenseUpdate(torch.zeros(6, 4)).energy() == 0
