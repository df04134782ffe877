"""Where a weight lies can be compared, hashed and sent to another process."""

import pickle

import torch

from prolora.models.references import Slice, WeightRef, swap_halves


def test_equal_references_are_one():
    refs = [WeightRef("a.weight", Slice(0, 0, 4), halves_swapped=True) for _ in range(2)]
    assert len(set(refs)) == 1
    assert refs[0] != WeightRef("a.weight", Slice(0, 0, 4))
    assert pickle.loads(pickle.dumps(refs[0])) == refs[0]


def test_swapped_halves_are_swapped_back():
    rows = torch.arange(12).reshape(6, 2)
    assert swap_halves(rows)[:, 0].tolist() == [6, 8, 10, 0, 2, 4]
    assert torch.equal(swap_halves(swap_halves(rows)), rows)
    assert torch.equal(WeightRef("a", halves_swapped=True).reordered(rows), swap_halves(rows))
    assert torch.equal(WeightRef("a").reordered(rows), rows)
