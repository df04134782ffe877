"""BOFT, against the libraries that write it: what they merge is what we read and move."""

from types import SimpleNamespace

import numpy as np
import peft.tuners.boft.layer
import pytest
import torch
from peft import BOFTConfig

from prolora.adapters import parse_adapter_file, read_adapter_file
from prolora.adapters.adapter import Adapter, Origin
from prolora.adapters.boft import make_boft
from prolora.adapters.oft import make_oft
from prolora.errors import ProLoRAError

from .dense_families import assert_moved_as_the_reference, assert_the_same_weight_gives_it_back
from .libraries import assert_reads_as_written, by_lycoris, by_peft
from .small_models import SHAPES, delta, drifted, matrix, move, random_weight
from .strategies import formed, relative_error

ORIGIN = Origin("style.safetensors")


@pytest.fixture(autouse=True)
def peft_without_a_compiler(monkeypatch):
    """PEFT compiles a CUDA kernel for more than one stage; this is what that kernel returns."""

    def block_diagonals(stages: torch.Tensor) -> list[torch.Tensor]:
        return [torch.stack([torch.block_diag(*blocks) for blocks in stages])]

    kernel = SimpleNamespace(forward=block_diagonals)
    monkeypatch.setattr(peft.tuners.boft.layer, "_FBD_CUDA", kernel)


@pytest.mark.parametrize("size", [6, 12, 100])
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("constraint", [0, 0.05, 0.3])
def test_what_lycoris_merges(tmp_path, size, rescaled, constraint):
    choices = {"linear_dim": size, "conv_dim": size, "constraint": constraint}
    written = by_lycoris(tmp_path, 0.5, algo="boft", rescaled=rescaled, **choices)
    assert_reads_as_written(written)
    file = read_adapter_file(written.path)
    assert file.families == ("BOFT",)
    notes = {adapter.note for adapter in file.adapters}
    assert all(("LyCORIS" in note) == bool(constraint) for note in notes)


def test_no_alpha_is_no_constraint():
    blocks, weight = random_weight((2, 2, 4, 4)), random_weight((8, 6))
    without = make_oft("mid", {"oft_blocks": blocks}, ORIGIN)
    zero = make_oft("mid", {"oft_blocks": blocks, "alpha": torch.tensor(0.0)}, ORIGIN)
    want = formed(zero.update(weight))
    assert np.linalg.norm(want) > 1
    np.testing.assert_array_equal(formed(without.update(weight)), want)
    assert zero.note == ""
    assert "ComfyUI's own loader leaves out" in without.note


def test_lycoris_has_several_stages(tmp_path):
    written = by_lycoris(tmp_path, 0.5, algo="boft", linear_dim=6, conv_dim=6)
    stages = {a.name: len(a.rotations) for a in read_adapter_file(written.path).adapters}
    assert stages == {"lycoris_linear": 3, "lycoris_conv1": 2, "lycoris_conv3": 2}


@pytest.mark.parametrize("stages", [1, 2, 3])
@pytest.mark.parametrize(
    "choices",
    [
        {"boft_block_size": 2, "boft_block_num": 0, "target_modules": ["linear", "conv1", "conv3"]},
        {"boft_block_num": 4, "boft_block_size": 0, "target_modules": ["linear", "conv1", "conv3"]},
        {"boft_block_size": 6, "boft_block_num": 0, "target_modules": ["conv3"]},
    ],
    ids=str,
)
def test_what_peft_merges(tmp_path, choices, stages):
    config = BOFTConfig(**choices, boft_n_butterfly_factor=stages)
    written = by_peft(tmp_path, config, 0.5)
    assert_reads_as_written(written)
    adapters = read_adapter_file(written.path).adapters
    assert {len(adapter.rotations) for adapter in adapters} == {stages}
    assert {(adapter.family, adapter.note) for adapter in adapters} == {("BOFT", "")}


def test_odd_blocks_of_peft(tmp_path):
    config = BOFTConfig(
        target_modules=["conv3"],
        boft_block_size=9,
        boft_block_num=0,
        boft_n_butterfly_factor=1,
    )
    assert_reads_as_written(by_peft(tmp_path, config, 0.5))


# --- Retargeted


def by_lycoris_s_layout(m: int, n: int) -> Adapter:
    parts = {"oft_blocks": random_weight((2, 2, m // 2, m // 2)), "rescale": near_one(m)}
    return make_oft("module", parts, ORIGIN)


def by_peft_s_layout(m: int, n: int) -> Adapter:
    return make_boft(
        "module", {"boft_R": random_weight((1, 2, n // 2, n // 2)), "boft_s": near_one(m)}, ORIGIN
    )


def near_one(m: int) -> torch.Tensor:
    return 1 + 0.1 * random_weight((m, 1), seed=5)


LAYOUTS = {"LyCORIS": by_lycoris_s_layout, "PEFT": by_peft_s_layout}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("layout", LAYOUTS)
def test_moved_onto_the_same_weight(shape, layout):
    weight = random_weight(shape)
    m, n = weight.shape[0], weight[0].numel()
    adapter = LAYOUTS[layout](m, n)
    assert_the_same_weight_gives_it_back(adapter, weight)


@pytest.mark.parametrize("mode", ["full", "prolora", "subspace"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_moved_between_drifted_weights(shape, mode):
    """One stage of PEFT's: s W R^T - W, with R formed."""
    source = random_weight(shape)
    target = drifted(source)
    m, n = source.shape[0], source[0].numel()
    blocks, scale = random_weight((1, 2, n // 2, n // 2)), near_one(m)
    Q = (blocks[0] - blocks[0].mT).double().numpy() / 2
    turns = (np.eye(n // 2) - Q) @ np.linalg.inv(np.eye(n // 2) + Q)
    R = torch.block_diag(*torch.tensor(turns)).numpy()
    update = scale.double().numpy() * (matrix(source) @ R.T) - matrix(source)
    adapter = make_boft("module", {"boft_R": blocks, "boft_s": scale}, ORIGIN)
    assert_moved_as_the_reference(adapter, update, source, target, mode)


def test_small_rotations_are_not_lost_to_rounding():
    """To first order the stages add up: delta is linear in the blocks."""
    blocks, weight = random_weight((2, 2, 8, 8)), random_weight((16, 24))

    def change(size: float) -> np.ndarray:
        return formed(make_oft("module", {"oft_blocks": size * blocks}, ORIGIN).update(weight))

    assert relative_error(change(1e-7), 1e-1 * change(1e-6)) < 1e-5
    assert np.linalg.norm(change(1e-7)) > 1e-7


def test_an_untrained_module_changes_nothing():
    weight = random_weight((24, 16))
    parts = {"boft_R": torch.zeros(2, 4, 4, 4), "boft_s": torch.ones(24, 1)}
    adapter = make_boft("module", parts, ORIGIN)
    assert not formed(adapter.update(weight)).any()
    moved, _ = move(adapter, weight, drifted(weight))
    assert not delta(moved).any()


# --- Refused

R, S = torch.ones(2, 4, 4, 4), torch.ones(24, 1)
BAD = {
    "no scale": ({"boft_R": R}, "a boft_R but no boft_s"),
    "no blocks": ({"boft_s": S}, "a boft_s but no boft_R"),
    "not square": ({"boft_R": torch.ones(2, 4, 4, 3), "boft_s": S}, r"boft_R \[2, 4, 4, 3\]"),
    "too few sides": ({"boft_R": torch.ones(4, 4, 4), "boft_s": S}, r"boft_R \[4, 4, 4\]"),
    "empty": ({"boft_R": torch.ones(0, 4, 4, 4), "boft_s": S}, r"boft_R \[0, 4, 4, 4\]"),
    "empty scale": ({"boft_R": R, "boft_s": S[:0]}, "an empty boft_s"),
    "too many stages": (
        {"boft_R": torch.ones(3, 6, 4, 4), "boft_s": S},
        "a butterfly of 3 stages, which 6 blocks of 4",
    ),
    "odd blocks": (
        {"boft_R": torch.ones(2, 4, 3, 3), "boft_s": S},
        "a butterfly of 2 stages, which 4 blocks of 3",
    ),
    "too many stages of LyCORIS": (
        {"oft_blocks": torch.ones(3, 6, 4, 4)},
        "a butterfly of 3 stages, which 6 blocks of 4",
    ),
    "odd blocks of LyCORIS": (
        {"oft_blocks": torch.ones(1, 4, 3, 3)},
        "a butterfly of 1 stages, which 4 blocks of 3",
    ),
    "rescale too short": (
        {"oft_blocks": R, "rescale": torch.ones(15, 1)},
        r"a rescale \[15, 1\] for 16 outputs",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_modules(kind):
    parts, words = BAD[kind]
    tensors = {f"mid.{role}": tensor for role, tensor in parts.items()}
    with pytest.raises(ProLoRAError, match=rf"style\.safetensors: the module mid .*{words}.*again"):
        parse_adapter_file(tensors, "style.safetensors")


@pytest.mark.parametrize("shape", [(24, 18), (22, 16)])
def test_blocks_that_do_not_fit_the_weight(shape):
    adapter = make_boft("mid", {"boft_R": R, "boft_s": S}, ORIGIN)
    assert adapter.delta_shape == (24, 16)
    words = (
        rf"BOFT of the module mid .*blocks of 4 and scales 24 outputs.*\[{shape[0]}, {shape[1]}\]"
    )
    with pytest.raises(ProLoRAError, match=words):
        adapter.update(random_weight(shape))
