"""What is counted of descriptors, against numpy and by hand."""

import numpy as np
import pytest
import torch

from prolora.evaluation.figures import figure_of, likeness, matched_cosines, pairs_within


def descriptors(n: int, seed: int, d: int = 12) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    x, y = a.double().numpy(), b.double().numpy()
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def test_likeness_is_the_mean_over_all_pairs():
    pictures, reference = descriptors(5, 0), 3 * descriptors(7, 1)
    want = [np.mean([cosine(a, b) for b in reference]) for a in pictures]
    assert max(abs(np.array(want) - np.array([cosine(a, reference[0]) for a in pictures]))) > 0.1
    assert likeness(pictures, reference) == pytest.approx(want, abs=1e-12)


def test_likeness_to_its_own_kind_is_one():
    one = descriptors(1, 0)
    assert likeness(descriptors(4, 1), one) != pytest.approx([1] * 4, abs=0.1)
    assert likeness(one.repeat(4, 1), 2 * one.repeat(3, 1)) == pytest.approx([1] * 4, abs=1e-12)


def test_each_picture_meets_its_own_prompt():
    pictures, prompts = descriptors(5, 0), descriptors(5, 1)
    want = [cosine(a, b) for a, b in zip(pictures, prompts, strict=True)]
    assert matched_cosines(pictures, prompts.flip(0)) != pytest.approx(want, abs=0.1)
    assert matched_cosines(pictures, prompts) == pytest.approx(want, abs=1e-12)


def test_pairs_are_of_one_prompt():
    pairs = pairs_within(["a", "b", "a", "b", "a"], 100)
    assert sorted(pairs) == [(0, 2), (0, 4), (1, 3), (2, 4)]
    assert pairs_within(["a", "b"], 100) == []


def test_too_many_pairs_are_drawn_without_favour():
    groups = ["a"] * 60
    drawn = pairs_within(groups, 400)
    assert len(set(drawn)) == 400
    assert drawn == pairs_within(groups, 400)
    assert {place for pair in drawn for place in pair} == set(range(60))


def test_a_figure():
    figure = figure_of([1.0, 2.0, 6.0], ("a", "b", "c"))
    assert (figure.mean, figure.count, figure.unit) == (3.0, 3, "pictures")
    assert figure.deviation == pytest.approx(np.std([1, 2, 6], ddof=1))
    assert figure.values == {"a": 1.0, "b": 2.0, "c": 6.0}
    assert figure_of([1.0]).deviation is None
