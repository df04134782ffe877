"""One module, from stored weights to a stored update, against the dense float64 reference."""

import numpy as np
import pytest
import torch

from prolora.adapters import FullDifference, LoraAdapter, lora_state_dict, parse_adapter_file
from prolora.errors import ProLoRAError

from .dense_reference import dense_pair, dense_project, dense_quadrants, dense_subspace
from .small_models import SHAPES, delta, drifted, matrix, move, random_lora, random_weight
from .strategies import relative_error, spectrum

FP8 = torch.float8_e4m3fn
MODES = ["full", "prolora", "subspace"]
ROOMY = {"rank": 8}  # twice the rank of random_lora: `prolora` is not cut


def reference(
    adapter: LoraAdapter, source: torch.Tensor, target: torch.Tensor, mode: str = "full"
) -> np.ndarray:
    """What the method gives; far from the update that was not moved."""
    subspaces = dense_pair(matrix(source), matrix(target), 0.8)
    want = dense_project(delta(adapter), *subspaces, mode)
    assert relative_error(delta(adapter), want) > 0.1
    return want


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("alpha", [None, 1.0, 4.0, 13.0])
@pytest.mark.parametrize("kind", SHAPES)
def test_layers(kind, alpha, mode):
    source = random_weight(SHAPES[kind])
    target = drifted(source)
    adapter = random_lora("layer", SHAPES[kind], alpha=alpha)
    moved, row = move(adapter, source, target, mode=mode, **ROOMY)
    assert relative_error(delta(moved), reference(adapter, source, target, mode)) < 1e-5
    assert moved.up.shape[2:] == adapter.up.shape[2:]
    assert moved.down.shape[1:] == adapter.down.shape[1:]
    assert moved.alpha == moved.rank == row.rank_out


@pytest.mark.parametrize(
    ("adapter_dtype", "weight_dtype"),
    [
        *((dtype, dtype) for dtype in (torch.float16, torch.bfloat16, torch.float64)),
        (torch.float16, FP8),
        (torch.float32, FP8),
        (torch.bfloat16, torch.float16),
    ],
    ids=str,
)
def test_dtypes(adapter_dtype, weight_dtype):
    source = random_weight((24, 16))
    target = drifted(source).to(weight_dtype)
    source = source.to(weight_dtype)
    adapter = random_lora("layer", (24, 16), alpha=2.0, dtype=adapter_dtype)
    moved, _ = move(adapter, source, target)
    assert relative_error(delta(moved), reference(adapter, source, target)) < 1e-5


def test_float64_is_closer_still():
    source = random_weight((24, 16))
    adapter = random_lora("layer", (24, 16))
    moved, _ = move(adapter, source, drifted(source), dtype=torch.float64)
    assert relative_error(delta(moved), reference(adapter, source, drifted(source))) < 1e-13


@pytest.mark.parametrize("mode", MODES)
def test_identical_weights_are_recognised(mode):
    weight, adapter = random_weight((24, 16)), random_lora("layer", (24, 16), alpha=2.0)
    moved, row = move(adapter, weight, weight.clone(), mode=mode)
    assert relative_error(delta(moved), delta(adapter)) < 1e-6
    assert (row.status, row.reason) == ("copied", "the weights are identical")


@pytest.mark.parametrize("mode", MODES)
def test_identical_weights_projected_all_the_same(mode):
    weight, adapter = random_weight((24, 16)), random_lora("layer", (24, 16))
    moved, row = move(adapter, weight, weight.clone(), mode=mode, copy_identical=False, **ROOMY)
    part = dense_quadrants(delta(adapter), dense_subspace(matrix(weight), 0.8))
    subspace = part["subspace_subspace"]
    parts = {"full": delta(adapter), "prolora": subspace + part["null_null"], "subspace": subspace}
    if mode != "full":
        assert relative_error(delta(adapter), parts[mode]) > 0.1
    assert relative_error(delta(moved), parts[mode]) < 1e-5
    assert row.status == "moved"
    assert row.measures.similarity.score == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("threshold", [0.999, 1.0])
def test_equal_subspaces_pass_every_threshold(threshold):
    weight = random_weight((24, 16))
    _, row = move(random_lora("layer", (24, 16)), weight, weight * 2, threshold=threshold)
    assert row.status == "moved"


def test_copy_is_the_baseline():
    source, adapter = random_weight((24, 16)), random_lora("layer", (24, 16), alpha=2.0)
    moved, row = move(adapter, source, drifted(source), mode="copy")
    assert relative_error(delta(moved), delta(adapter)) < 1e-6
    assert (row.status, row.reason) == ("copied", "mode copy")


@pytest.mark.parametrize("rank", [1, 16, 19])  # 16 is min(m, n)
@pytest.mark.parametrize("mode", MODES)
def test_ranks_of_the_adapter(mode, rank):
    source = random_weight((24, 16))
    adapter = random_lora("layer", (24, 16), rank=rank)
    moved, row = move(adapter, source, drifted(source), mode=mode)
    if mode == "prolora":  # its 2 r are cut to r
        want = best_of_rank(reference(adapter, source, drifted(source), mode), rank)
    else:
        want = reference(adapter, source, drifted(source), mode)
    assert relative_error(delta(moved), want) < 1e-5
    assert row.rank_in == rank
    assert row.rank_out <= rank


@pytest.mark.parametrize("rank", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_a_cut_drops_the_tail_of_the_spectrum(mode, rank):
    source, adapter = random_weight((24, 16)), random_lora("layer", (24, 16))
    moved, row = move(adapter, source, drifted(source), mode=mode, rank=rank)
    want = reference(adapter, source, drifted(source), mode)
    squared = np.linalg.svd(want, compute_uv=False) ** 2
    assert relative_error(delta(moved), best_of_rank(want, rank)) < 1e-5
    assert row.rank_out == moved.rank == rank
    assert row.energy_dropped == pytest.approx(squared[rank:].sum() / squared.sum(), rel=1e-4)
    kept = squared[:rank].sum() / np.linalg.norm(delta(adapter)) ** 2
    assert row.energy_kept == pytest.approx(kept, rel=1e-4)


def best_of_rank(value: np.ndarray, rank: int) -> np.ndarray:
    U, s, Vh = np.linalg.svd(value)
    return (U[:, : len(s)] * s * (np.arange(len(s)) < rank)) @ Vh[: len(s)]


def test_a_rank_larger_than_possible():
    weight, adapter = random_weight((24, 16)), random_lora("layer", (24, 16))
    with pytest.raises(ProLoRAError, match=r"rank 17 .*layer, is 24 x 16.* Choose a rank up to 16"):
        move(adapter, weight, drifted(weight), rank=17)


def test_repeated_singular_values():
    random = np.random.default_rng(0)
    values = np.array([3.0, 2, 2, 2, 2, 0.1, 0.1])
    source, target = (
        torch.tensor(spectrum(random, 12, 9, values), dtype=torch.float32) for _ in range(2)
    )
    adapter = random_lora("layer", (12, 9))
    moved, row = move(adapter, source, target)
    assert row.measures.source_rank == row.measures.target_rank == 5  # the cut falls among twos
    assert relative_error(delta(moved), reference(adapter, source, target)) < 1e-5


ZERO, OTHER = torch.zeros(24, 16), random_weight((24, 16))


@pytest.mark.parametrize(
    ("source", "target", "phi"),
    [(ZERO, ZERO, 1.0), (ZERO, OTHER, 0.0), (OTHER, ZERO, 0.0)],
    ids=["both", "source", "target"],
)
@pytest.mark.parametrize("mode", MODES)
def test_zero_weights(mode, source, target, phi):
    adapter = random_lora("layer", (24, 16))
    moved, row = move(adapter, source, target, mode=mode, copy_identical=False, **ROOMY)
    subspaces = dense_pair(matrix(source), matrix(target), 0.8)
    want = dense_project(delta(adapter), *subspaces, mode)
    assert np.linalg.norm(delta(moved) - want) < 1e-5 * np.linalg.norm(delta(adapter))
    assert row.measures.similarity.score == phi


def test_an_update_of_zero_stays_zero():
    adapter = random_lora("layer", (24, 16))
    adapter = LoraAdapter("layer", torch.zeros_like(adapter.up), adapter.down, 4.0)
    moved, row = move(adapter, OTHER, drifted(OTHER), rank=2)
    assert not delta(moved).any()
    assert row.energy_dropped == 0


BIG, SMALL = 65504.0, 6e-8  # the ends of fp16


def test_weights_at_the_ends_of_fp16():
    signs = random_weight((24, 16)).sign()
    source = (signs * torch.where(torch.arange(24) % 2 == 0, BIG, SMALL)[:, None]).half()
    target = source.clone()
    target[::2, ::3] *= -1
    assert source.abs().min() > 0
    adapter = random_lora("layer", (24, 16))
    moved, _ = move(adapter, source, target)
    assert relative_error(delta(moved), reference(adapter, source, target)) < 1e-5


@pytest.mark.parametrize(
    ("up_scales", "down_scales"),
    [
        ([BIG] * 4, [SMALL] * 4),
        ([SMALL] * 4, [BIG] * 4),
        ([BIG, SMALL, BIG, SMALL], [SMALL, BIG, SMALL, BIG]),  # no one factor balances all of them
    ],
    ids=["up big", "down big", "mixed"],
)
@pytest.mark.parametrize("mode", [*MODES, "copy"])
def test_factors_at_the_ends_of_fp16_survive_a_file_in_fp16(mode, up_scales, down_scales):
    up, down = (random_weight(shape, seed).sign() for shape, seed in (((24, 4), 1), ((4, 16), 2)))
    up, down = up * torch.tensor(up_scales), down * torch.tensor(down_scales)[:, None]
    adapter = LoraAdapter("layer", up.half(), down.half(), None)
    moved, _ = move(adapter, OTHER, drifted(OTHER), mode=mode, **ROOMY)
    want = delta(adapter) if mode == "copy" else reference(adapter, OTHER, drifted(OTHER), mode)
    assert relative_error(delta(moved), want) < 1e-5
    tensors = lora_state_dict([moved], torch.float16)
    (read,) = parse_adapter_file(tensors, "file").adapters
    assert relative_error(delta(read), want) < 1e-3


def test_a_value_too_large_for_fp16_is_an_error():
    adapter = LoraAdapter("layer", torch.full((4, 1), 1e6), torch.full((1, 4), 1e6), None)
    with pytest.raises(ProLoRAError, match=r"module layer reaches 1e\+06, which float16 cannot"):
        lora_state_dict([adapter], torch.float16)
    assert lora_state_dict([adapter], torch.bfloat16)["layer.lora_up.weight"].isfinite().all()


def test_casa_cuts_what_has_no_rank_to_the_rank_of_its_authors():
    weight = random_weight((48, 40))
    difference = FullDifference("linear", 0.1 * random_weight((48, 40), 5))
    moved, row = move(difference, weight, drifted(weight), mode="casa")
    assert (moved.rank, row.rank_out, row.energy_kept) == (32, 32, None)
    lora, row = move(random_lora("linear", (48, 40)), weight, drifted(weight), mode="casa")
    assert (lora.rank, row.rank_out) == (4, 4)
