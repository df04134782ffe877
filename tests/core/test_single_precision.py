"""The contract of leading subspaces, against dense float64: k, the projectors to 1e-5, Phi to 1e-4.

Decompositions in float32 alone do not keep it, which is shown first.
"""

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from prolora.algebra.leading import common_subspaces, leading_subspace
from prolora.algebra.subspace import Subspace, similarity

from .dense_reference import (
    DenseSubspace,
    dense_pair,
    dense_rank,
    dense_similarity,
    dense_subspace,
)
from .spectra import LIFELIKE, SPECTRA, Pair, pairs, weight

SMALL, LARGE = (2, 60), (256, 280)  # those in float64 from the start, and those in float32
ENERGIES = (0.5, 0.8, 0.9, 0.95)


def off(found: Subspace, exact: DenseSubspace) -> float:
    """The larger relative error of the two projectors."""
    if not exact.rank:
        return float(found.rank)
    sides = ((found.U, exact.P), (found.V, exact.Q))
    errors = (np.linalg.norm((A := B.double().numpy()) @ A.T - P) for B, P in sides)
    return max(errors) / exact.rank**0.5


def in_plain_float32(made: torch.Tensor, k: int) -> Subspace:
    """As float32 has it without any correction."""
    vectors = torch.linalg.eigh(made @ made.T).eigenvectors.flip(1)[:, :k]
    return Subspace(vectors, torch.linalg.qr(made.T @ vectors).Q, torch.ones(k))


@pytest.mark.parametrize("shape", [(480, 480), (320, 640), (640, 320)])
def test_the_contract_holds_where_plain_float32_breaks_it(shape):
    worst = 0.0
    for kind in LIFELIKE:
        made = weight(shape, kind, seed=3).float()
        for energy in ENERGIES:
            exact = dense_subspace(made.numpy(), energy)
            found = leading_subspace(made, energy)
            assert found.rank == exact.rank
            assert off(found, exact) < 1e-5
            worst = max(worst, off(in_plain_float32(made, exact.rank), exact))
    assert worst > 2e-5


@pytest.mark.parametrize("kind", SPECTRA)
@pytest.mark.parametrize("energy", ENERGIES)
def test_a_subspace_of_every_spectrum(kind, energy):
    made = weight((260, 300), kind, seed=1).float()
    exact = dense_subspace(made.numpy(), energy)
    found = leading_subspace(made, energy)
    assert found.rank == exact.rank
    assert off(found, exact) < 1e-5


@given(pairs(SMALL))
def test_a_subspace_of_a_small_weight(pair: Pair):
    check_subspace(pair)


@given(pairs(LARGE))
@settings(max_examples=30)
def test_a_subspace_of_a_large_weight(pair: Pair):
    check_subspace(pair)


@given(pairs(SMALL))
def test_common_subspaces_of_small_weights(pair: Pair):
    check_common_subspaces(pair)


@given(pairs(LARGE))
@settings(max_examples=30)
def test_common_subspaces_of_large_weights(pair: Pair):
    check_common_subspaces(pair)


def check_subspace(pair: Pair) -> None:
    found = leading_subspace(pair.source, pair.energy)
    exact = dense_subspace(pair.source.numpy(), pair.energy)
    assert found.rank == exact.rank
    assert off(found, exact) < 1e-5


def check_common_subspaces(pair: Pair) -> None:
    found = common_subspaces(pair.source, pair.target, pair.energy)
    exact = dense_pair(pair.source.numpy(), pair.target.numpy(), pair.energy)
    values = [
        np.linalg.svd(w.double().numpy(), compute_uv=False) for w in (pair.source, pair.target)
    ]
    assert [found.source_rank, found.target_rank] == [dense_rank(s, pair.energy) for s in values]
    assert [found.source.rank, found.target.rank] == [subspace.rank for subspace in exact]
    assert max(map(off, (found.source, found.target), exact)) < 1e-5
    if all(subspace.rank for subspace in exact):
        phi = similarity(found.source, found.target)
        assert (phi.left, phi.right) == pytest.approx(dense_similarity(*exact), abs=1e-4)
