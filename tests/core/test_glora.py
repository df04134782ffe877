"""GLoRA files of LyCORIS, now and of old, and what becomes of them."""

import lycoris
import numpy as np
import pytest
import torch
from lycoris.modules import glora

from prolora.adapters import read_adapter_file
from prolora.algebra.updates import DenseUpdate, LowRankUpdate
from prolora.files.safetensors import read_safetensors

from .dense_families import (
    adapters_of,
    assert_lycoris_reads_the_result,
    assert_nothing_is_lost_at_full_rank,
    assert_refused,
    move,
    read_module,
    written_by_lycoris,
)
from .libraries import (
    Net,
    assert_reads_as_written,
    assert_same_updates,
    flat,
    lycoris_applied,
    updates_in,
)
from .small_models import random_weight
from .strategies import relative_error

RANKS = {"lycoris_linear": 4, "lycoris_conv1": 4, "lycoris_conv3": 2}


@pytest.mark.parametrize("choices", [{}, {"use_tucker": True}, {"use_scalar": True}])
def test_lycoris(tmp_path, choices):
    """No core is ever written: for `use_tucker` LyCORIS wants a kernel that is 1 x 1 and is not."""
    written = written_by_lycoris(tmp_path, algo="glora", **choices)
    assert not any(".bm." in key for key in read_safetensors(written.path)[0])
    file = read_adapter_file(written.path)
    assert (file.families, file.unknown, file.left_out) == (("GLoRA",), (), {})
    assert_reads_as_written(written)


def test_rank_stabilised(tmp_path):
    """LyCORIS trains at alpha / sqrt(r), saves alpha, and reads alpha / r back out of the file."""
    written = written_by_lycoris(tmp_path, algo="glora", rs_lora=True)
    ours = updates_in(written.path, written.weights)
    trained = {name: update / RANKS[name] ** 0.5 for name, update in written.updates.items()}
    assert_same_updates(ours, trained)
    base = Net()
    for name, weight in written.weights.items():
        base.get_submodule(name.removeprefix("lycoris_")).weight.data = weight
    network, _ = lycoris.create_lycoris_from_weights(1, str(written.path), base)
    assert_same_updates(ours, lycoris_applied(network))


def test_the_weight_is_part_of_the_update(tmp_path):
    """Another weight gets another update; a file read against zeros would lose half of it."""
    written = written_by_lycoris(tmp_path, algo="glora")
    for adapter in read_adapter_file(written.path).adapters:
        weight = torch.zeros_like(written.weights[adapter.name])
        assert relative_error(flat(adapter.delta(weight)), written.updates[adapter.name]) > 0.05


def test_moved_at_full_rank(tmp_path):
    assert_nothing_is_lost_at_full_rank(written_by_lycoris(tmp_path, algo="glora"))


def test_rank_0(tmp_path):
    """Its own rank, and nothing is dropped."""
    written = written_by_lycoris(tmp_path, algo="glora")
    adapter, weight = next((a, w) for a, w, _ in adapters_of(written) if a.rank)
    moved, row = move(adapter, weight, weight, mode="full", rank=0, copy_identical=False)
    assert (adapter.name, moved.rank, row.energy_dropped) == ("lycoris_linear", 8, 0)


def test_lycoris_reads_the_lora(tmp_path):
    written = written_by_lycoris(tmp_path, algo="glora")
    assert_lycoris_reads_the_result(tmp_path, written, rank=2)


def test_a_core():
    """By LyCORIS's own formula for one."""
    shapes = {"a1": (6, 2, 1, 1), "a2": (2, 6, 1, 1), "b1": (8, 2, 1, 1), "b2": (2, 6, 1, 1)}
    shapes["bm"] = (2, 2, 3, 3)
    factors = {name: random_weight(shape, i) for i, (name, shape) in enumerate(shapes.items())}
    weight = random_weight((8, 6, 3, 3), 9)
    want = flat(glora._glora_weight(weight, *factors.values(), 1.5))
    tensors = {f"{name}.weight": factor for name, factor in factors.items()}
    got = read_module({**tensors, "alpha": torch.tensor(3.0)}).delta(weight)
    assert relative_error(flat(got), want) < 1e-5


def module(inputs: int, outputs: int, rank: int, old: bool) -> dict[str, torch.Tensor]:
    """Random tensors in the layout of now (x a1 a2, b1 b2) or of old (x a2 a1, b2 b1)."""
    up_a, down_a = random_weight((inputs, rank), 1), random_weight((rank, inputs), 2)
    up_b, down_b = random_weight((outputs, rank), 3), random_weight((rank, inputs), 4)
    names = ("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2")
    tensors = dict(zip(names, (up_a, down_a, up_b, down_b), strict=True))
    return {f"{name}.weight": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize("shape", [(24, 16), (16, 24), (16, 16)])
@pytest.mark.parametrize("old", [False, True])
def test_both_layouts(shape, old):
    outputs, inputs = shape
    tensors = module(inputs, outputs, 4, old)
    weight = random_weight(shape, 5)
    W = weight.double().numpy()
    a2, a1, b2, b1 = (
        tensors[f"{name}.weight"].double().numpy()
        for name in (("a2", "a1", "b2", "b1") if old else ("a1", "a2", "b1", "b2"))
    )
    want = 2 * (W @ a2 @ a1 + b2 @ b1)  # alpha is 8
    adapter = read_module({**tensors, "alpha": torch.tensor(8.0)})
    assert adapter.delta_shape == shape
    assert relative_error(adapter.delta(weight).double().numpy(), want) < 1e-5


def test_square_at_full_rank_counts_as_old():
    """Both layouts fit, and ComfyUI takes the old one."""
    tensors = module(8, 8, 8, old=False)
    a1, a2, b1, b2 = (tensors[f"{name}.weight"].double() for name in ("a1", "a2", "b1", "b2"))
    weight = random_weight((8, 8), 5)
    got = read_module(tensors).delta(weight).double().numpy()
    now = (weight.double() @ a1 @ a2 + b1 @ b2).numpy()
    old = (weight.double() @ a2 @ a1 + b2 @ b1).numpy()
    assert np.linalg.norm(now - got) > 0.5 * np.linalg.norm(got)
    assert relative_error(got, old) < 1e-5


def test_alpha_0():
    adapter = read_module({**GOOD, "alpha": torch.tensor(0.0)})
    assert adapter.delta(torch.ones(24, 16)).abs().max() == 0
    assert "alpha is 0" in adapter.note


GOOD = module(16, 24, 4, old=False)
BROKEN = {
    **{
        f"no {name[:2]}": (
            {key: tensor for key, tensor in GOOD.items() if key != name},
            f"has GLoRA tensors but no {name[:2]}. ",
        )
        for name in GOOD
    },
    "ranks": (
        {**GOOD, "b2.weight": torch.ones(3, 16)},
        "a1 [16, 4], a2 [4, 16], b1 [24, 4], b2 [3, 16] that do not multiply",
    ),
    "rank 0": (module(16, 24, 0, old=False), "has an empty glora_a1 [16, 0]"),
    "inputs": ({**GOOD, "b2.weight": torch.ones(4, 15)}, "b2 [4, 15] that do not multiply"),
    "vectors": ({**GOOD, "b1.weight": torch.ones(24)}, "b1 [24], b2 [4, 16] that do not"),
    "core": ({**GOOD, "bm.weight": torch.ones(3, 3, 3, 3)}, "bm [3, 3, 3, 3] that do not"),
    "a kernel in a2": (
        {**GOOD, "a2.weight": torch.ones(4, 16, 3, 3)},
        "a2 [4, 16, 3, 3], b1 [24, 4], b2 [4, 16] that do not multiply",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_modules(kind):
    tensors, words = BROKEN[kind]
    assert_refused(tensors, words)


def test_the_update_has_its_own_rank(tmp_path):
    """Twice that of the factors; for a kernel of k places k + 1 times, if the weight has that."""
    written = written_by_lycoris(tmp_path, algo="glora")
    updates = {a.name: (a.rank, a.update(weight)) for a, weight, _ in adapters_of(written)}
    rank, update = updates["lycoris_linear"]
    assert isinstance(update, LowRankUpdate)
    assert (rank, update.rank) == (8, 8)
    for name in ("lycoris_conv1", "lycoris_conv3"):  # of 8 and 20, and the weights have 8 and 12
        rank, update = updates[name]
        assert (rank, type(update)) == (0, DenseUpdate)
