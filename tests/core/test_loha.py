"""LoHa files of LyCORIS and PEFT, their updates, and what becomes of them."""

import pytest
import torch
from peft import LoHaConfig

from prolora.adapters import read_adapter_file
from prolora.algebra.updates import DenseUpdate, LowRankUpdate
from prolora.files.safetensors import read_safetensors

from .dense_families import (
    assert_lycoris_reads_the_result,
    assert_nothing_is_lost_at_full_rank,
    assert_rank_0_keeps_99_percent,
    assert_refused,
    read_module,
    written_by_lycoris,
)
from .libraries import MODULES, assert_reads_as_written, by_peft
from .strategies import formed, relative_error

CHOICES = {
    "two ranks": {},  # 4 and 2, with alphas 1.5 and 6
    "tucker": {"use_tucker": True},
    "rank-stabilised": {"rs_lora": True},
    "a learned scalar": {"use_scalar": True},
    "no alpha of its own": {"linear_alpha": 0, "conv_alpha": 0},
}


@pytest.mark.parametrize("choice", CHOICES)
def test_lycoris(tmp_path, choice):
    written = written_by_lycoris(tmp_path, algo="loha", **CHOICES[choice])
    cores = [key for key in read_safetensors(written.path)[0] if ".hada_t" in key]
    assert len(cores) == 2 * (choice == "tucker")
    file = read_adapter_file(written.path)
    assert (file.families, file.unknown, file.left_out) == (("LoHa",), (), {})
    assert_reads_as_written(written)


def test_rank_stabilised_alphas(tmp_path):
    """LyCORIS saves alpha * sqrt(rank), so that alpha / rank is its scale again."""
    written = written_by_lycoris(tmp_path, algo="loha", rs_lora=True)
    tensors = read_safetensors(written.path)[0]
    assert tensors["lycoris_linear.alpha"].item() == pytest.approx(1.5 * 4**0.5)
    assert tensors["lycoris_conv3.alpha"].item() == pytest.approx(6 * 2**0.5)


@pytest.mark.parametrize("tucker", [False, True])
def test_peft(tmp_path, tucker):
    config = LoHaConfig(
        r=4,
        alpha=6,
        rank_pattern={"conv3": 2},
        alpha_pattern={"conv3": 5},
        use_effective_conv2d=tucker,
        target_modules=list(MODULES),
    )
    written = by_peft(tmp_path, config)
    assert any(".hada_t1" in key for key in read_safetensors(written.path)[0]) == tucker
    assert_reads_as_written(written)


@pytest.mark.parametrize("choice", ["two ranks", "tucker"])
def test_moved_at_full_rank(tmp_path, choice):
    written = written_by_lycoris(tmp_path, algo="loha", **CHOICES[choice])
    assert_nothing_is_lost_at_full_rank(written)


def test_rank_0(tmp_path):
    assert_rank_0_keeps_99_percent(written_by_lycoris(tmp_path, algo="loha"))


def test_lycoris_reads_the_lora(tmp_path):
    assert_lycoris_reads_the_result(tmp_path, written_by_lycoris(tmp_path, algo="loha"), rank=3)


A, B = torch.ones(24, 4), torch.ones(4, 16)
GOOD = {"hada_w1_a": A, "hada_w1_b": B, "hada_w2_a": A, "hada_w2_b": B}
CORE = torch.ones(4, 4, 3, 3)


def test_alpha_over_the_rank():
    weight = torch.zeros(24, 16)
    assert read_module(GOOD).delta(weight).unique().tolist() == [16]
    assert read_module({**GOOD, "alpha": torch.tensor(2.0)}).delta(weight).unique().tolist() == [8]
    nothing = read_module({**GOOD, "alpha": torch.tensor(0.0)})
    assert nothing.delta(weight).unique().tolist() == [0]
    assert "alpha is 0" in nothing.note


def without(role: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in GOOD.items() if key != role}


@pytest.mark.parametrize("role", GOOD)
def test_a_missing_half(role):
    assert_refused(without(role), f"has no {role}. ")


BROKEN = {
    "ranks": ({**GOOD, "hada_w2_b": B[:3]}, "hada_w2_a [24, 4], hada_w2_b [3, 16] that do not"),
    "rank 0": ({**GOOD, "hada_w1_a": A[:, :0], "hada_w1_b": B[:0]}, "an empty hada_w1_a [24, 0]"),
    "vectors": ({**GOOD, "hada_w1_b": B[0]}, "hada_w1_b [16] that do not multiply"),
    "unequal products": ({**GOOD, "hada_w2_a": A[:20]}, "hada_w1 of 24 x 16 but a hada_w2 of 20"),
    "one core": ({**GOOD, "hada_t1": CORE}, "has a hada_t1 but no hada_t2"),
    "the other core": ({**GOOD, "hada_t2": CORE}, "has a hada_t2 but no hada_t1"),
    "cores, but no core's pair": (
        {**GOOD, "hada_t1": CORE, "hada_t2": CORE},
        "hada_t1 [4, 4, 3, 3], hada_w1_a [24, 4], hada_w1_b [4, 16] that do not multiply",
    ),
    "no pair at all": ({"hada_t1": CORE, "hada_t2": CORE}, "no hada_w1_a and no hada_w1_b"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_modules(kind):
    tensors, words = BROKEN[kind]
    assert_refused(tensors, words)


def test_the_update_has_the_rank_of_its_product(tmp_path):
    """The ranks multiplied, where that is less than the weight's own."""
    found = {}
    for rank in (2, 5):
        written = by_peft(tmp_path / str(rank), LoHaConfig(r=rank, target_modules=["linear"]))
        (adapter,) = read_adapter_file(written.path).adapters
        found[rank] = adapter.update(written.weights[adapter.name])
        assert relative_error(formed(found[rank]), written.updates[adapter.name]) < 1e-5
    assert isinstance(found[2], LowRankUpdate)
    assert found[2].rank == 4
    assert isinstance(found[5], DenseUpdate)  # 25 is more than the weight's 16
