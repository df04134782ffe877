"""LoKr files of LyCORIS and PEFT, whole and factored, and what becomes of them."""

import numpy as np
import pytest
import torch
from peft import LoKrConfig

from prolora.adapters import parse_adapter_file, read_adapter_file
from prolora.errors import ProLoRAError
from prolora.files.safetensors import read_safetensors

from .dense_families import (
    assert_lycoris_reads_the_result,
    assert_nothing_is_lost_at_full_rank,
    assert_rank_0_keeps_99_percent,
    assert_refused,
    read_module,
    written_by_lycoris,
)
from .libraries import MODULES, assert_reads_as_written, by_peft, flat
from .strategies import relative_error

SMALL = {"linear_dim": 2, "linear_alpha": 3, "conv_dim": 1, "conv_alpha": 5, "factor": 2}
# Choices, and the roles that the file has to have then, so that no form goes untested.
CHOICES = {
    "w2 factored": (SMALL, {"w1", "w2_a", "w2_b"}),
    "tucker": ({**SMALL, "use_tucker": True}, {"w1", "w2_a", "w2_b", "t2"}),
    "both factored": (
        {**SMALL, "linear_dim": 1, "factor": 4, "decompose_both": True},
        {"w1_a", "w1_b", "w2_a", "w2_b"},
    ),
    "both factored, tucker": (
        {**SMALL, "linear_dim": 1, "factor": 4, "decompose_both": True, "use_tucker": True},
        {"w1_a", "w1_b", "w2_a", "w2_b", "t2"},
    ),
    "unbalanced": ({**SMALL, "unbalanced_factorization": True}, {"w1", "w2_a", "w2_b"}),
    "rank-stabilised": ({**SMALL, "rs_lora": True}, {"w1", "w2_a", "w2_b"}),
    "a learned scalar": ({**SMALL, "use_scalar": True}, {"w1", "w2_a", "w2_b"}),
    "both whole": ({"full_matrix": True}, {"w1", "w2"}),
    "both whole at that rank": ({"linear_dim": 16, "conv_dim": 16, "factor": 4}, {"w1", "w2"}),
    "w1 factored, w2 whole": (
        {"linear_dim": 2, "linear_alpha": 3, "conv_dim": 1, "unbalanced_factorization": True}
        | {"decompose_both": True, "factor": 2},
        {"w1_a", "w1_b", "w2"},
    ),
}


def roles_in(path) -> set[str]:
    return {key.split(".lokr_")[1] for key in read_safetensors(path)[0] if ".lokr_" in key}


@pytest.mark.parametrize("choice", CHOICES)
def test_lycoris(tmp_path, choice):
    options, roles = CHOICES[choice]
    written = written_by_lycoris(tmp_path, algo="lokr", **options)
    assert roles <= roles_in(written.path)
    file = read_adapter_file(written.path)
    assert (file.families, file.unknown, file.left_out) == (("LoKr",), (), {})
    assert_reads_as_written(written)


@pytest.mark.parametrize("tucker", [False, True])
@pytest.mark.parametrize("both", [False, True])
def test_peft(tmp_path, tucker, both):
    config = LoKrConfig(
        r=1,
        alpha=3,
        rank_pattern={"linear": 2},
        alpha_pattern={"linear": 5},
        use_effective_conv2d=tucker,
        decompose_both=both,
        decompose_factor=4,
        target_modules=list(MODULES),
    )
    written = by_peft(tmp_path, config)
    assert ("t2" in roles_in(written.path)) == tucker
    assert ("w1_a" in roles_in(written.path)) == both
    assert_reads_as_written(written)


def test_peft_with_both_whole(tmp_path):
    """PEFT scales whole factors too, and its configuration has the rank."""
    config = LoKrConfig(
        r=100,
        alpha=30,
        rank_pattern={"conv.": 50},
        init_weights=False,
        target_modules=list(MODULES),
    )
    written = by_peft(tmp_path, config)
    assert roles_in(written.path) == {"w1", "w2"}
    assert_reads_as_written(written)
    tensors = read_safetensors(written.path)[0]
    for adapter in parse_adapter_file(tensors, "without its configuration").adapters:
        update = flat(adapter.delta(written.weights[adapter.name]))
        assert relative_error(update, written.updates[adapter.name]) > 0.5


@pytest.mark.parametrize("choice", ["w2 factored", "tucker", "both whole"])
def test_moved_at_full_rank(tmp_path, choice):
    written = written_by_lycoris(tmp_path, algo="lokr", **CHOICES[choice][0])
    assert_nothing_is_lost_at_full_rank(written)


def test_rank_0(tmp_path):
    assert_rank_0_keeps_99_percent(written_by_lycoris(tmp_path, algo="lokr", factor=4))


def test_lycoris_reads_the_lora(tmp_path):
    written = written_by_lycoris(tmp_path, algo="lokr", factor=4)
    assert_lycoris_reads_the_result(tmp_path, written, rank=2)


W1, W2 = torch.ones(2, 4), torch.ones(12, 4)
A, B = torch.ones(12, 3), torch.ones(3, 4)
WHOLE = {"lokr_w1": W1, "lokr_w2": W2}
FACTORED = {"lokr_w1": W1, "lokr_w2_a": A, "lokr_w2_b": B}


def delta(tensors: dict[str, torch.Tensor], alpha: float | None = None) -> np.ndarray:
    """Of a module of ones, in one number."""
    parts = tensors if alpha is None else {**tensors, "alpha": torch.tensor(alpha)}
    (value,) = read_module(parts).delta(torch.zeros(24, 16)).unique().tolist()
    return value


def test_alpha_is_over_the_rank_of_the_factored_side():
    assert (delta(FACTORED), delta(FACTORED, 6), delta(FACTORED, 0)) == (3, 6, 0)
    both = {"lokr_w1_a": torch.ones(2, 5), "lokr_w1_b": torch.ones(5, 4)}
    assert delta({**both, "lokr_w2": W2}, 10) == 5 * 10 / 5
    assert delta({**both, "lokr_w2_a": A, "lokr_w2_b": B}, 6) == 5 * 3 * 6 / 3  # ComfyUI: w2's


@pytest.mark.parametrize(("alpha", "told"), [(None, 0), (1, 1), (0, 1), (5, 1), (6, 0), (512, 0)])
def test_alpha_of_two_whole_factors(alpha, told):
    """Not applied, as in ComfyUI; said where it cannot be the rank that LyCORIS writes there."""
    assert delta(WHOLE, alpha) == 1
    parts = WHOLE if alpha is None else {**WHOLE, "alpha": torch.tensor(float(alpha))}
    note = read_module(parts).note
    assert note.startswith(f"its alpha of {alpha} is not applied") == bool(told)
    assert bool(note) == bool(told)


def test_an_alpha_counts_where_there_is_a_rank():
    """ai-toolkit's alpha of two whole factors is infinite in fp16; elsewhere that is a fault."""
    infinite = torch.tensor(9999999999.0).half()
    assert delta({**WHOLE, "alpha": infinite}) == 1
    for tensors in (FACTORED, {"lokr_w1_a": W1, "lokr_w1_b": torch.ones(4, 4), "lokr_w2": W2}):
        with pytest.raises(ProLoRAError, match=r"LoRA alpha of the module m, .*NaN or inf"):
            read_module({**tensors, "alpha": infinite})


def test_rank_stabilised_and_both_whole(tmp_path):
    """LyCORIS trains them with a scale of sqrt(rank), which ComfyUI does not see in the file."""
    options = {"linear_dim": 16, "conv_dim": 16, "factor": 4, "rs_lora": True}
    written = written_by_lycoris(tmp_path, algo="lokr", **options)
    for adapter in read_adapter_file(written.path).adapters:
        ours = flat(adapter.delta(written.weights[adapter.name]))
        assert relative_error(4 * ours, written.updates[adapter.name]) < 1e-5


BROKEN = {
    "no w1": ({"lokr_w2": W2}, "has no lokr_w1, neither whole nor as a pair"),
    "no w2": ({"lokr_w1": W1}, "has no lokr_w2, neither whole nor as a pair"),
    "no w2_b": ({"lokr_w1": W1, "lokr_w2_a": A}, "has no lokr_w2_b. "),
    "no w2_a": ({"lokr_w1": W1, "lokr_w2_b": B}, "has no lokr_w2_a. "),
    "no w1_b": ({"lokr_w1_a": A, "lokr_w2": W2}, "has no lokr_w1_b. "),
    "a core alone": (
        {"lokr_w1": W1, "lokr_t2": torch.ones(3, 3, 3, 3)},
        "no lokr_w2_a and no lokr_w2_b",
    ),
    "whole and factored": ({**FACTORED, "lokr_w2": W2}, "whole lokr_w2 and also a lokr_w2_a"),
    "ranks": ({**FACTORED, "lokr_w2_b": B[:2]}, "lokr_w2_a [12, 3], lokr_w2_b [2, 4] that do not"),
    "core": (
        {**FACTORED, "lokr_t2": torch.ones(3, 3, 3, 3)},
        "lokr_t2 [3, 3, 3, 3], lokr_w2_a [12, 3], lokr_w2_b [3, 4] that do not multiply",
    ),
    "vector": ({**WHOLE, "lokr_w2": W2[0]}, "a lokr_w2 [4] that is no matrix"),
    "a kernel in w1": (
        {**WHOLE, "lokr_w1": torch.ones(2, 2, 3, 3)},
        "a lokr_w1 [2, 2, 3, 3] that is no matrix",
    ),
    "empty": ({**WHOLE, "lokr_w1": W1[:0]}, "an empty lokr_w1 [0, 4]"),
    "a core as long as the layer is wide": (
        {
            **{"lokr_w1": W1, "lokr_w2_a": torch.ones(1, 12), "lokr_w2_b": torch.ones(1, 9000)},
            "lokr_t2": torch.ones(1, 1, 9000, 1),
        },
        "lokr_t2 [1, 1, 9000, 1], lokr_w2_a [1, 12], lokr_w2_b [1, 9000] that do not multiply",
    ),
    "a core that nobody writes": ({**WHOLE, "lokr_t1": W1}, "has a lokr_t1"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_bad_modules(kind):
    tensors, words = BROKEN[kind]
    assert_refused(tensors, words)
