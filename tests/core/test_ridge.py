"""The fit of a factor to read-outs, against the normal equations in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prolora.algebra.ridge import fit_towards

from .strategies import relative_error


def problem(p: int, n: int, r: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    X, start = (torch.randn(s, generator=generator) for s in ((p, n), (r, n)))
    z = X @ start.T + 0.5 * torch.randn(p, r, generator=generator)
    return X, z, start


def dense_fit(
    X: torch.Tensor, z: torch.Tensor, start: torch.Tensor, penalty: float
) -> torch.Tensor:
    """The stationary point of the sum of squares, by the n x n normal equations."""
    X, z, start = X.double(), z.double(), start.double()
    shrunk = penalty * len(X) * X.square().mean()
    left = X.T @ X + shrunk * torch.eye(X.shape[1], dtype=torch.float64)
    return torch.linalg.solve(left, X.T @ z + shrunk * start.T).T


SIZES = {"p": st.integers(2, 24), "n": st.integers(1, 24), "r": st.integers(1, 4)}


@given(**SIZES, penalty=st.floats(0.01, 10), seed=st.integers(0, 99))
@settings(deadline=None)
def test_it_solves_the_normal_equations(p, n, r, penalty, seed):
    X, z, start = problem(p, n, r, seed)
    wanted = dense_fit(X, z, start, penalty)
    found = fit_towards(X, z, start, penalty)
    assert relative_error(found.factor, wanted) < 1e-5
    assert found.factor.dtype == start.dtype


def test_a_fit_is_far_from_where_it_starts():
    X, z, start = problem(20, 8, 2, 0)
    assert relative_error(start, dense_fit(X, z, start, 0.1)) > 0.05


@pytest.mark.parametrize(("p", "n"), [(12, 5), (5, 12)])
def test_what_is_off_afterwards_is_measured_on_what_was_left_out(p, n):
    X, z, start = problem(p, n, 2, 3)
    penalty = 0.7
    shrunk = penalty * p * float(X.double().square().mean())
    misses = []
    for left in range(p):
        rest = [i for i in range(p) if i != left]
        own = shrunk / (len(rest) * float(X[rest].double().square().mean()))
        factor = dense_fit(X[rest], z[rest], start, own)
        misses.append(z[left].double() - factor @ X[left].double())
    wanted = float(torch.stack(misses).norm() / z.double().norm())
    found = fit_towards(X, z, start, penalty)
    assert found.off_after == pytest.approx(wanted, rel=1e-6)
    assert found.off_before == pytest.approx(float((z - X @ start.T).norm() / z.norm()), rel=1e-5)


def test_what_reads_right_already_stays_as_it_is():
    X, _, start = problem(9, 6, 2, 4)
    found = fit_towards(X, X @ start.T, start, 1.0)
    assert relative_error(found.factor, start) < 1e-6
    assert found.off_before < 1e-6


def test_inputs_of_nothing_change_nothing():
    found = fit_towards(torch.zeros(4, 3), torch.ones(4, 2), torch.ones(2, 3), 1.0)
    assert torch.equal(found.factor, torch.ones(2, 3))
    assert found.off_before == found.off_after == 1
