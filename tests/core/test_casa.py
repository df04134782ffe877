"""CASA against its public code's own numbers, and the properties that its description promises.

data/casa.safetensors holds small inputs and what cluster_aware_spectral_arbitration in transfer.py
of github.com/Noahwangyuchen/CASA, at d7c8310e57352b48f9dbc8028cdc0eb2643f5f4e, made of them on a
CPU in float32, with target_rank = min(m, n), at which its cut is none. `published` is by the full
SVD of torch (stored where the weight is rectangular: the directions beyond the singular ones are
arbitrary); `published, by the drift` by the same with those directions taken from numpy's SVD of
the drift outside of the others, as casa.py has it.
"""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prolora.algebra import casa
from prolora.algebra.casa import (
    PUBLISHED,
    Basis,
    Choices,
    arbitrate,
    arbitrate_in,
    clusters,
    source_basis,
)

from .strategies import relative_error, spectrum

CASES = {
    "square": PUBLISHED,
    "square, other choices": Choices(0.1, 0.8, 0.4),
    "square, small weights": PUBLISHED,  # so small that the absolute constants count
    "wide": PUBLISHED,  # beyond its singular directions, more inputs than the drift fills
    "wide, all inputs": PUBLISHED,  # and fewer
    "tall": Choices(0.4, 0.3, 0.6),
}
RECTANGULAR = [name for name in CASES if not name.startswith("square")]
SHAPES = {"square": (24, 24), "wide": (12, 32), "tall": (32, 12)}


@pytest.fixture(scope="module")
def data() -> dict[str, torch.Tensor]:
    return load_file(Path(__file__).parent / "data" / "casa.safetensors")


def read(data: dict[str, torch.Tensor], name: str):
    x = {key.split("/")[1]: value for key, value in data.items() if key.startswith(f"{name}/")}
    x["delta"] = x["up"] @ x["down"]
    return x


def far(value: torch.Tensor, reference: torch.Tensor) -> float:
    return relative_error(value.double().numpy(), reference.double().numpy())


@pytest.mark.parametrize("name", CASES)
def test_it_does_what_the_public_code_does(data, name: str):
    x = read(data, name)
    want = x.get("published, by the drift", x["published"])
    assert far(x["delta"], want) > 0.3
    assert far(arbitrate(x["delta"], x["source"], x["target"], CASES[name]), want) < 1e-4


@pytest.mark.parametrize("name", RECTANGULAR)
def test_in_the_public_codes_basis(data, name: str):
    x = read(data, name)
    basis = Basis(x["U"], x["Vh"].T, x["S"])
    assert far(x["published, by the drift"], x["published"]) > 0.1  # the basis does matter
    got = arbitrate_in(basis, x["delta"], x["target"] - x["source"], CASES[name])
    assert far(got, x["published"]) < 1e-4


@pytest.mark.parametrize("name", RECTANGULAR)
def test_another_basis_would_be_as_far_as_any_two(data, name: str):
    """The limit that the docstring states: between random bases, and from ours to those."""
    x = read(data, name)
    drift = x["target"] - x["source"]
    random = [arbitrate_in(turned(x, seed), x["delta"], drift, CASES[name]) for seed in range(6)]
    ours = arbitrate(x["delta"], x["source"], x["target"], CASES[name])
    between = [far(a, b) for i, a in enumerate(random) for b in random[:i]]
    assert min(between) > 0.05
    assert max(far(a, ours) for a in random) < 1.5 * max(between)


def turned(x: dict[str, torch.Tensor], seed: int) -> Basis:
    """The basis of the public code, what is arbitrary in it turned by a random rotation."""
    U, V, k = x["U"].clone(), x["Vh"].T.clone(), len(x["S"])
    longer = U if len(U) > len(V) else V
    longer[:, k:] = longer[:, k:] @ rotation(len(longer) - k, seed).float()
    return Basis(U, V, x["S"])


def rotation(size: int, seed: int) -> torch.Tensor:
    return torch.linalg.qr(torch.tensor(np.random.default_rng(seed).normal(size=(size, size))))[0]


class Weights:
    """Two related weights of falling spectra and an update of rank 4, float64."""

    def __init__(self, m: int, n: int, seed: int = 0):
        random = np.random.default_rng(seed)
        values = 5.0 * np.arange(1, min(m, n) + 1) ** -0.6
        source = spectrum(random, m, n, values)
        self.source = torch.tensor(source)
        self.target = torch.tensor(source + 0.1 * spectrum(random, m, n, values))
        delta = random.normal(size=(m, 4)) @ random.normal(size=(4, n))
        self.delta = torch.tensor(0.1 * np.linalg.norm(source) / np.linalg.norm(delta) * delta)

    @property
    def all(self) -> tuple[torch.Tensor, ...]:
        return self.delta, self.source, self.target

    def routed(self, *updates: torch.Tensor) -> list[np.ndarray]:
        """m x n updates in the basis of the method, as arrays."""
        basis = source_basis(self.source, self.target - self.source)
        return [(basis.U.T @ update @ basis.V).numpy() for update in updates]


@pytest.fixture(params=SHAPES)
def weights(request) -> Weights:
    return Weights(*SHAPES[request.param])


def test_the_basis_holds_the_drift(weights: Weights):
    drift = weights.target - weights.source
    basis = source_basis(weights.source, drift)
    for side in (basis.U, basis.V):
        assert torch.allclose(side.T @ side, torch.eye(side.shape[1], dtype=side.dtype), atol=1e-9)
    assert far(basis.U @ (basis.U.T @ drift @ basis.V) @ basis.V.T, drift) < 1e-9
    values = torch.linalg.svdvals(weights.source)
    assert torch.allclose(basis.singular_values, values)


def entries(weights: Weights, choices: Choices) -> dict[str, np.ndarray]:
    """What target + result - source has where, and the two that it is made of."""
    drift = weights.target - weights.source
    result = arbitrate(*weights.all, choices)
    lora, drifted, together = weights.routed(weights.delta, drift, drift + result)
    larger = np.where(np.abs(lora) > np.abs(drifted), lora, drifted)
    forms = {"lora": lora, "sum": lora + drifted, "larger": larger}
    same = {name: np.isclose(together, form, rtol=0, atol=1e-9) for name, form in forms.items()}
    return {**same, "one sign": lora * drifted > 0, "drift": drifted}


def test_outside_dominant_directions_the_target_goes_back(weights: Weights):
    """Without arbitration: back on other rows by other columns, the sum everywhere else."""
    found = entries(weights, Choices(arbitration_quantile=1))
    back = found["lora"]
    assert (back != found["sum"]).all()
    assert (back == np.outer(back.any(axis=1), back.any(axis=0))).all()
    assert 0.1 < back.mean() < 0.9


@pytest.mark.parametrize("quantile", [0.0, 0.4, 0.85])
def test_arbitrated_entries_never_exceed_the_larger(weights: Weights, quantile: float):
    found = entries(weights, Choices(arbitration_quantile=quantile))
    kept = entries(weights, Choices(arbitration_quantile=1))["sum"]
    assert (found["lora"] | found["sum"] | found["larger"]).all()
    arbitrated = kept & ~found["sum"]
    assert (arbitrated <= (found["larger"] & found["one sign"])).all()
    count = int((kept & found["one sign"]).sum())
    assert arbitrated.sum() == count - 1 - int(quantile * (count - 1))
    assert count > 20


@pytest.mark.parametrize("quantile", [0.0, 1.0])
def test_the_ends_of_dominance(quantile: float):
    """Every cluster is dominant, or the densest alone: the rest of a square weight goes back."""
    weights = Weights(24, 24)
    found = entries(weights, Choices(dominance_quantile=quantile, arbitration_quantile=1))
    squared = np.linalg.svd(weights.source.numpy())[1] ** 2
    k = int((np.cumsum(squared) < 0.9 * squared.sum()).sum()) + 1
    assert found["lora"][k:, k:].all()
    assert np.abs(found["drift"][k:, k:]).max() > 1e-3
    assert found["sum"][:k, :k].mean() == 1 if quantile == 0 else found["sum"].mean() < 0.5


def test_without_a_drift_delta_comes_back(weights: Weights):
    assert torch.equal(arbitrate(weights.delta, weights.source, weights.source), weights.delta)


def test_a_source_of_zeros_leaves_delta(weights: Weights):
    zeros = torch.zeros_like(weights.source)
    assert torch.equal(arbitrate(weights.delta, zeros, weights.target), weights.delta)


def test_without_a_lora_a_part_of_the_drift_is_taken_back(weights: Weights):
    drift = weights.target - weights.source
    result = arbitrate(torch.zeros_like(drift), weights.source, weights.target)
    routed, drifted = weights.routed(result, drift)
    taken = np.isclose(routed, -drifted, atol=1e-9)
    assert (taken | np.isclose(routed, 0, atol=1e-9)).all()
    assert 0.1 < taken.mean() < 0.9


def test_turned_spaces_turn_the_result(weights: Weights):
    """No basis of the method depends on that of the weights: LAPACK's arbitrary one would."""
    m, n = weights.source.shape
    P, Q = rotation(m, 1), rotation(n, 2)
    got = arbitrate(*(P @ matrix @ Q.T for matrix in weights.all))
    want = P @ arbitrate(*weights.all) @ Q.T
    assert far(P @ weights.delta @ Q.T, want) > 0.3
    assert far(got, want) < 1e-8


def test_inputs_and_outputs_are_treated_alike(weights: Weights):
    got = arbitrate(*(matrix.T for matrix in weights.all)).T
    assert far(got, arbitrate(*weights.all)) < 1e-8


def test_the_signs_of_singular_pairs_do_not_matter(weights: Weights):
    drift = weights.target - weights.source
    basis = source_basis(weights.source, drift)
    k = len(basis.singular_values)
    random = np.random.default_rng(3)
    U_signs, V_signs = (
        torch.tensor(random.choice([-1.0, 1.0], side.shape[1])) for side in (basis.U, basis.V)
    )
    V_signs[:k] = U_signs[:k]
    flipped = Basis(basis.U * U_signs, basis.V * V_signs, basis.singular_values)
    got = arbitrate_in(flipped, weights.delta, drift, PUBLISHED)
    assert far(got, arbitrate(*weights.all)) < 1e-12


def test_it_scales_with_the_weights_and_not_with_the_strength(weights: Weights):
    want = 8 * arbitrate(*weights.all)
    assert far(arbitrate(*(8 * matrix for matrix in weights.all)), want) < 1e-9
    assert far(arbitrate(8 * weights.delta, weights.source, weights.target), want) > 0.1


def test_float32_gives_what_float64_gives(weights: Weights):
    got = arbitrate(*(matrix.float() for matrix in weights.all))
    assert got.dtype == torch.float32
    assert far(got, arbitrate(*weights.all)) < 1e-4


def test_clusters_are_the_connected_components():
    values = torch.tensor([9.0, 8.0, 7.0, 7.0, 3.0, 0.0])
    routed = torch.zeros(6, 6)
    assert clusters(routed, values, 0.5).tolist() == [0, 1, 2, 3, 4, 5]  # equal values alone do not
    routed[3, 2] = 1e-6  # of one direction only, and as small as that: the values are equal
    routed[5, 0] = 5.0  # above half of the gap of 9
    routed[1, 4] = 2.0  # below half of the gap of 5
    routed[2, 2] = 100.0  # with itself
    assert clusters(routed, values, 0.5).tolist() == [0, 1, 2, 2, 3, 0]
    assert clusters(routed, values, 0.3).tolist() == [0, 1, 2, 2, 1, 0]
    order = torch.randperm(300, generator=torch.Generator().manual_seed(0))
    chain = torch.diag(torch.ones(299), 1)[order][:, order]
    assert clusters(chain, torch.zeros(300), 0.5).unique().tolist() == [0]


@pytest.mark.parametrize("share", [0.0, 0.07, 0.55, 0.85, 1.0])  # 0.55 * 100 is not 55 in floats
def test_quantiles_part_values_at_the_right_place(share: float):
    values = torch.randperm(101, generator=torch.Generator().manual_seed(0)).float()
    for towards in (math.floor, math.ceil):
        assert casa._quantile(values, share, towards) == round(100 * share)


@pytest.mark.parametrize("name", ["dominance_quantile", "arbitration_quantile", "square_energy"])
def test_a_share_beyond_its_bounds_is_refused(name: str):
    with pytest.raises(ValueError, match=rf"{name} is 1\.5"):
        Choices(**{name: 1.5})
