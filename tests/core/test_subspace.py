import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prolora.algebra.effective_rank import effective_rank
from prolora.algebra.leading import common_subspaces, leading_subspace
from prolora.algebra.subspace import chance_corrected, similarity
from prolora.algebra.updates import LowRankUpdate

from .dense_reference import dense_pair, dense_similarity, dense_subspace
from .strategies import Case, cases, dense, project, relative_error, rotated, spectrum


def squared(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).square()


@pytest.mark.parametrize(
    ("values", "energy", "k"),
    [
        ((3, 1), 0.9, 1),  # exactly 0.9 is enough
        ((3, 1), 0.91, 2),
        ((2, 2, 2, 2), 0.5, 4),  # equal values are never torn apart
        ((4, 1, 1, 1), 0.87, 4),
        ((4, 1, 1, 1), 0.84, 1),
        ((0, 0, 0), 0.8, 0),
        ((5,), 0.01, 1),
    ],
)
def test_effective_rank_by_hand(values, energy, k):
    assert effective_rank(squared(*values), energy) == k


@given(cases())
def test_subspace_equals_the_dense_one(case: Case):
    got = leading_subspace(case.source, case.energy)
    want = dense_subspace(case.source.numpy(), case.energy)
    assert got.rank == want.rank
    np.testing.assert_allclose(got.U @ got.U.T, want.P, atol=2e-6)
    np.testing.assert_allclose(got.V @ got.V.T, want.Q, atol=2e-6)


@given(cases())
def test_projectors_are_idempotent(case: Case):
    subspace = leading_subspace(case.source.double(), case.energy)
    for basis in (subspace.U, subspace.V):
        torch.testing.assert_close(basis.T @ basis, torch.eye(subspace.rank, dtype=torch.float64))


@given(cases())
def test_similarity_equals_the_dense_one(case: Case):
    got = similarity(*(leading_subspace(w, case.energy) for w in (case.source, case.target)))
    want = dense_similarity(
        *(dense_subspace(w.numpy(), case.energy) for w in (case.source, case.target))
    )
    assert (got.left, got.right) == pytest.approx(want, abs=1e-4)
    assert 0 <= got.score <= 1


@given(cases(), st.floats(-30, 30))
def test_the_scale_of_a_weight_does_not_matter(case: Case, exponent: float):
    scaled = leading_subspace(case.source * 2.0 ** round(exponent), case.energy)
    plain = leading_subspace(case.source, case.energy)
    assert scaled.rank == plain.rank
    assert similarity(scaled, plain).score == pytest.approx(1, abs=1e-6)


@given(cases(), st.integers(0, 2**32 - 1))
def test_the_rotation_of_singular_vectors_does_not_matter(case: Case, seed: int):
    source, target = (leading_subspace(w, case.energy) for w in (case.source, case.target))
    before = similarity(source, target)
    after = similarity(rotated(source, seed), target)
    assert (after.left, after.right) == pytest.approx((before.left, before.right), abs=1e-4)


def test_repeated_singular_values_give_one_subspace():
    random = np.random.default_rng(0)
    values = np.array([3.0, 2, 2, 2, 2, 0.1, 0.1])
    weight = torch.tensor(spectrum(random, 12, 9, values), dtype=torch.float32)
    U, V = (torch.tensor(np.linalg.qr(random.normal(size=(s, s)))[0]).float() for s in (12, 9))
    subspace = leading_subspace(weight, 0.6)  # the cut would fall between the twos
    turned = leading_subspace(U @ weight @ V, 0.6)
    assert subspace.rank == turned.rank == 5
    back = replace(turned, U=U.T @ turned.U, V=V @ turned.V)
    assert similarity(back, subspace).score == pytest.approx(1, abs=1e-5)


def test_unrelated_weights_have_about_the_chance_level():
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(200, 160, generator=random) for _ in range(2)]
    found = similarity(*(leading_subspace(weight, 0.8) for weight in weights))
    assert found.left == pytest.approx(found.left_chance, abs=0.02)
    assert found.right == pytest.approx(found.right_chance, abs=0.02)
    assert abs(found.left_corrected) < 0.05
    assert found.score > 0.3  # which is why the report shows the corrected value beside it


def test_chance_corrected():
    assert chance_corrected(0.4, 0.4) == 0
    assert chance_corrected(1.0, 0.4) == 1
    assert math.isnan(chance_corrected(1.0, 1.0))


def test_zero_weights():
    zero, other = (leading_subspace(w, 0.8) for w in (torch.zeros(6, 4), torch.eye(6, 4)))
    assert zero.rank == 0
    assert similarity(zero, zero).score == 1
    assert similarity(zero, other).score == 0


@pytest.mark.parametrize("scale", [1.2e-7, 1.0, 65504.0])
def test_the_ends_of_fp16(scale):
    weight = (torch.eye(8, 5) * torch.tensor([1, 1, 1, 0.5, 0.5]) * scale).half().float()
    assert leading_subspace(weight, 0.5).rank == 3


@pytest.mark.parametrize("energy", [0.0, 1.0, -1, 2])
def test_energy_out_of_range(energy):
    with pytest.raises(ValueError, match="between 0 and 1"):
        leading_subspace(torch.eye(3), energy)


@given(cases())
def test_common_subspaces_equal_the_dense_ones(case: Case):
    got = common_subspaces(case.source, case.target, case.energy)
    want = dense_pair(case.source.numpy(), case.target.numpy(), case.energy)
    own = [dense_subspace(w.numpy(), case.energy).rank for w in (case.source, case.target)]
    assert [got.source_rank, got.target_rank] == own
    assert got.source.rank == got.target.rank == want[0].rank >= max(own)
    phi = similarity(got.source, got.target)
    assert (phi.left, phi.right) == pytest.approx(dense_similarity(*want), abs=1e-4)


def test_the_same_directions_under_two_spectra_are_one_subspace():
    """A target with a flatter spectrum: by ranks of their own, 69 directions are dropped."""
    random = np.random.default_rng(0)
    U, V = (np.linalg.qr(random.normal(size=(100, 100)))[0] for _ in range(2))
    place = np.arange(1, 101)
    source, target = ((U * place**-d) @ V.T for d in (1.0, 0.05))
    source, target = (torch.tensor(weight, dtype=torch.float32) for weight in (source, target))
    update = LowRankUpdate(
        *(
            torch.tensor(random.normal(size=size), dtype=torch.float32)
            for size in ((100, 8), (8, 100))
        )
    )
    apart = [leading_subspace(weight, 0.8) for weight in (source, target)]
    assert apart[1].rank > 5 * apart[0].rank
    assert similarity(*apart).score > 0.999  # which says that all is well
    assert project(update, *apart, "full").energy() < 0.5 * update.energy()
    found = common_subspaces(source, target, 0.8)
    assert similarity(found.source, found.target).score > 0.999
    kept = dense(project(update, found.source, found.target, "full"))
    assert relative_error(kept, dense(update)) < 1e-4


def test_a_zero_weight_is_like_no_other():
    zero, weight = torch.zeros(8, 6), torch.randn(8, 6, generator=torch.Generator().manual_seed(0))
    found = common_subspaces(zero, weight, 0.8)
    assert (found.source.rank, found.target.rank > 0) == (0, True)
    assert similarity(found.source, found.target).score == 0


def test_a_tie_of_either_weight_is_not_torn_apart():
    source = torch.diag(torch.tensor([5.0, 4, 3, 2, 1, 0.5]))
    target = torch.diag(torch.tensor([5.0, 3, 3, 3, 1, 0.5]))
    found = common_subspaces(source, target, 0.6)
    assert found.source_rank == 2
    assert found.source.rank == found.target.rank == 4
