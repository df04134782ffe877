"""The invariants of the method, section 2, against the dense reference."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from prolora.algebra.leading import leading_subspace
from prolora.algebra.maps import PROJECTION_MODES
from prolora.algebra.quadrants import quadrants_of
from prolora.algebra.updates import LowRankUpdate

from .dense_reference import dense_project, dense_quadrants, dense_subspace
from .strategies import Case, cases, dense, project, relative_error, rotated

PROJECTED = ["full", "prolora", "subspace"]


def subspaces(case: Case):
    return tuple(leading_subspace(w, case.energy) for w in (case.source, case.target))


def dense_subspaces(case: Case):
    return tuple(dense_subspace(w.numpy(), case.energy) for w in (case.source, case.target))


@pytest.mark.parametrize("mode", PROJECTED)
@given(case=cases())
def test_factored_equals_dense(mode: str, case: Case):
    want = dense_project(case.delta, *dense_subspaces(case), mode)
    got = dense(project(case.update, *subspaces(case), mode))
    scale = np.linalg.norm(case.delta)
    assume(np.linalg.norm(case.delta - want) > 1e-3 * scale)  # far, but for two bases without
    # null space, between which there is nothing to move
    assert np.linalg.norm(got - want) < 1e-5 * scale


@given(case=cases())
def test_the_same_weight_on_both_sides(case: Case):
    source, _ = subspaces(case)
    part = dense_quadrants(case.delta, dense_subspace(case.source.numpy(), case.energy))
    full = dense(project(case.update, source, source, "full"))
    assert relative_error(full, case.delta) < 1e-5
    prolora = dense(project(case.update, source, source, "prolora"))
    want = part["subspace_subspace"] + part["null_null"]
    assert np.linalg.norm(prolora - want) < 1e-5 * np.linalg.norm(case.delta)


@given(case=cases())
def test_the_quadrants_add_up(case: Case):
    source, _ = subspaces(case)
    parts = quadrants_of(case.update, source)
    want = dense_quadrants(case.delta, dense_subspace(case.source.numpy(), case.energy))
    total = np.linalg.norm(case.delta) ** 2
    assert parts.total == pytest.approx(total, rel=1e-5)
    assert case.update.energy() == pytest.approx(total, rel=1e-6)
    for name, value in asdict(parts).items():
        assert value == pytest.approx(np.linalg.norm(want[name]) ** 2, abs=1e-5 * total)


@given(case=cases())
def test_each_part_lies_in_its_place(case: Case):
    source, target = subspaces(case)
    want = dense_subspace(case.target.numpy(), case.energy)
    scale = np.linalg.norm(case.delta)
    assume(np.linalg.norm(case.delta - want.P @ case.delta @ want.Q) > 1e-3 * scale)
    subspace = dense(project(case.update, source, target, "subspace"))
    assert np.linalg.norm(want.P @ subspace @ want.Q - subspace) < 1e-5 * scale
    null = dense(project(case.update, source, target, "prolora")) - subspace
    assert np.linalg.norm(want.P_null @ null @ want.Q_null - null) < 1e-5 * scale


@pytest.mark.parametrize("mode", PROJECTED)
@given(case=cases(), seed=st.integers(0, 2**32 - 1))
def test_signs_and_rotations_do_not_matter(mode: str, case: Case, seed: int):
    source, target = subspaces(case)
    plain = dense(project(case.update, source, target, mode))
    turned = dense(project(case.update, rotated(source, seed), rotated(target, seed + 1), mode))
    assert np.linalg.norm(turned - plain) < 1e-5 * np.linalg.norm(case.delta)


@pytest.mark.parametrize("mode", PROJECTED)
@given(case=cases())
def test_the_scale_of_the_weights_does_not_matter(mode: str, case: Case):
    plain = dense(project(case.update, *subspaces(case), mode))
    scaled = Case(case.source * 1024, case.target / 256, case.update, case.energy)
    other = dense(project(case.update, *subspaces(scaled), mode))
    assert np.linalg.norm(other - plain) < 1e-5 * np.linalg.norm(case.delta)


@pytest.mark.parametrize(("mode", "growth"), [("full", 1), ("subspace", 1), ("prolora", 2)])
@given(case=cases())
def test_ranks(mode: str, growth: int, case: Case):
    assert project(case.update, *subspaces(case), mode).rank == growth * case.update.rank


@given(case=cases(), rank=st.integers(1, 12))
def test_the_cut_is_the_best_one(case: Case, rank: int):
    """Eckart-Young: what is dropped is the tail of the spectrum, and no more."""
    cut = case.update.truncate(rank)
    s = np.linalg.svd(case.delta, compute_uv=False) ** 2
    tail = s[rank:].sum() if rank < case.update.rank else 0.0
    assert cut.factors.rank <= rank or cut.factors.rank == case.update.rank
    assert cut.dropped == pytest.approx(tail / s.sum(), abs=1e-6)
    missing = np.linalg.norm(case.delta - dense(cut.factors)) ** 2
    assert missing == pytest.approx(tail, abs=1e-5 * s.sum())


def test_the_cut_of_nothing_is_nothing():
    nothing = LowRankUpdate(torch.zeros(5, 3), torch.zeros(3, 4))
    cut = nothing.truncate(1)
    assert cut.dropped == 0
    assert not dense(cut.factors).any()


@given(case=cases(), exponent=st.integers(-12, 12))
def test_balanced_factors_make_the_same_update(case: Case, exponent: int):
    lopsided = LowRankUpdate(case.update.up * 2.0**exponent, case.update.down)
    even = lopsided.balanced()
    assert relative_error(dense(even), dense(lopsided)) < 1e-5
    assert float(even.up.norm()) == pytest.approx(float(even.down.norm()), rel=1e-4)


def test_every_mode_is_tested():
    """test_exact_copies.py has alike, test_widths.py cross_width."""
    assert {*PROJECTED, "alike", "cross_width"} == set(PROJECTION_MODES)
