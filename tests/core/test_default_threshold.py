"""What the default threshold tells apart, at the default energy."""

import pytest
import torch

from prolora.algebra.leading import leading_subspace
from prolora.algebra.subspace import Similarity, similarity
from prolora.transfer.settings import DEFAULTS

from .spectra import weight
from .stacks import with_noise

# Spectra and the shapes in which real models have them. (A square weight `like mlp` is not among
# them: its subspace has half of all directions, and two unrelated ones a Phi of 0.52.)
REAL = {
    "like attention": (192, 192),
    "outliers": (192, 192),
    "white noise": (192, 192),
    "like mlp": (192, 576),
}


def found(source: torch.Tensor, target: torch.Tensor) -> Similarity:
    return similarity(*(leading_subspace(w, DEFAULTS.subspace_energy) for w in (source, target)))


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("kind", REAL)
def test_unrelated_weights_stay_below_it(kind, seed):
    """0.01 to 0.18, and white noise 0.39; measured on real models: 0.13 to 0.39."""
    one, other = (weight(REAL[kind], kind, each) for each in (seed, seed + 50))
    assert found(one, one).reaches(DEFAULTS.threshold)
    apart = found(one, other)
    assert not apart.reaches(DEFAULTS.threshold)
    assert apart.score < 0.4


@pytest.mark.parametrize("drift", [0.1, 0.4, 0.6])
@pytest.mark.parametrize("kind", REAL)
def test_a_far_fine_tune_reaches_it(kind, drift):
    """At a drift of 0.6 those like an MLP's have 0.66; measured: 0.58 to 0.82 at 0.64."""
    source = weight(REAL[kind], kind, 0)
    assert found(source, with_noise(source, drift, 3)).reaches(DEFAULTS.threshold)


def test_the_papers_threshold_would_leave_a_far_fine_tune_behind():
    """At this energy: 0.8 goes with more."""
    source = weight(REAL["like mlp"], "like mlp", 0)
    assert not found(source, with_noise(source, 0.6, 3)).reaches(0.8)
