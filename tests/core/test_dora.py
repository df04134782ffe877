"""DoRA: read as LyCORIS, PEFT and ai-toolkit merge it, and moved so that they merge ours alike."""

import copy

import lycoris
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import Tensor

from prolora.adapters import lora_state_dict, parse_adapter_file, read_adapter_file
from prolora.adapters.dora import DoraAdapter
from prolora.errors import ProLoRAError
from prolora.files.safetensors import read_safetensors

from .dense_reference import dense_pair, dense_project
from .libraries import (
    MODULES,
    Net,
    Written,
    by_lycoris,
    by_peft,
    flat,
    lycoris_applied,
    lycoris_updates,
)
from .small_models import SHAPES, drifted, matrix, move, random_lora, random_weight
from .strategies import formed, relative_error

OUTPUTS, INPUTS = 0, 1
STD = 0.3  # an update of about the size of the weight
LORA = {"linear_alpha": 4, "conv_alpha": 2}  # alpha equals the rank, as in what we write
PEFT = LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=list(MODULES))


def norms(weight: np.ndarray, axis: int) -> np.ndarray:
    """Of all rows, out x 1, or of all input channels, 1 x in x 1, of out x in x kernel."""
    others = (1, 2) if axis == OUTPUTS else (0, 2)
    return np.sqrt((weight**2).sum(axis=others, keepdims=True))


def blocks(matrix: np.ndarray, weight: Tensor) -> np.ndarray:
    """Out x in x kernel, for an m x n matrix over a weight."""
    return matrix.reshape(*weight.shape[:2], -1)


def merged(weight: Tensor, delta: np.ndarray, magnitude: np.ndarray, axis: int) -> np.ndarray:
    """m * (W + delta) / ||W + delta||, m x n; the formula of LyCORIS and of PEFT."""
    whole = blocks(matrix(weight) + delta, weight)
    m = magnitude.reshape((-1, 1, 1) if axis == OUTPUTS else (1, -1, 1))
    return (m * whole / norms(whole, axis)).reshape(len(whole), -1)


def by_library(written: Written, name: str) -> np.ndarray:
    return matrix(written.weights[name]) + written.updates[name]


def adapters(written: Written) -> dict[str, DoraAdapter]:
    return {adapter.name: adapter for adapter in read_adapter_file(written.path).adapters}


def assert_merges_as_written(written: Written, axis: int) -> None:
    found = adapters(written)
    assert found.keys() == written.weights.keys()
    for name, adapter in found.items():
        weight = written.weights[name]
        delta, m = formed(adapter.update(weight)), adapter.magnitude.double().numpy()
        want = by_library(written, name)
        assert adapter.axis == axis
        assert relative_error(matrix(weight) + delta, want) > 0.1  # the magnitude counts
        assert relative_error(merged(weight, delta, m, axis), want) < 1e-5, name
        assert adapter.magnitude.shape == tuple(
            side if number == axis else 1 for number, side in enumerate(weight.shape)
        )


@pytest.mark.parametrize("axis", [OUTPUTS, INPUTS])
@pytest.mark.parametrize("choices", [{}, {"use_tucker": True}], ids=["plain", "tucker"])
def test_lycoris(tmp_path, axis, choices):
    written = by_lycoris(tmp_path, STD, dora_wd=True, wd_on_output=axis == OUTPUTS, **choices)
    assert_merges_as_written(written, axis)
    assert read_adapter_file(written.path).families == ("DoRA",)


@pytest.mark.parametrize("axis", [OUTPUTS, INPUTS])
@pytest.mark.parametrize("family", ["LoHa", "LoKr"])
def test_lycoris_over_other_families(tmp_path, family, axis):
    choices = {"algo": family.lower(), "dora_wd": True, "wd_on_output": axis == OUTPUTS}
    written = by_lycoris(tmp_path, 0.7, lycoris_applied, **choices)
    assert_merges_as_written(written, axis)
    assert read_adapter_file(written.path).families == (f"DoRA over {family}",)
    for name, adapter in adapters(written).items():
        weight = written.weights[name]
        moved, row = move(adapter, weight, drifted(weight))
        assert (moved.family, row.family) == ("DoRA", f"DoRA over {family}")


def test_peft(tmp_path):
    assert_merges_as_written(by_peft(tmp_path, PEFT, STD), OUTPUTS)


def test_ai_toolkit():
    """A magnitude an output; its layer adds (m / ||V|| - 1) V x to V x, with V = W + up down."""
    weight, x = random_weight((16, 16)), random_weight((5, 16), 9).double()
    lora, m = random_lora("m", (16, 16), rank=4), random_weight((16,), 7)
    tensors = {"m.lora_up.weight": lora.up, "m.lora_down.weight": lora.down, "m.magnitude": m}
    (adapter,) = parse_adapter_file(tensors, "file").adapters
    V = (weight + lora.up @ lora.down).double()
    want = x @ V.T + (m / V.norm(dim=1) - 1) * (x @ V.T)
    delta = formed(adapter.update(weight))
    got = x.numpy() @ merged(weight, delta, adapter.magnitude.double().numpy(), OUTPUTS).T
    assert relative_error(got, want.numpy()) < 1e-5


# (key, shape for a 16 x 16 weight) -> axis: what tells the axis where the lengths do not
SQUARE = [
    ("dora_scale", (16, 1), OUTPUTS),
    ("dora_scale", (1, 16), INPUTS),
    ("dora_scale", (16,), OUTPUTS),
    ("lora_magnitude_vector", (16,), OUTPUTS),
    ("lora_magnitude_vector.weight", (16,), OUTPUTS),
    ("magnitude", (16,), OUTPUTS),
]
SQUARE_CONV = [
    ("dora_scale", (16, 1, 1, 1), OUTPUTS),
    ("dora_scale", (1, 16, 1, 1), INPUTS),
    ("lora_magnitude_vector", (1, 16, 1, 1), OUTPUTS),
]


@pytest.mark.parametrize(("key", "shape", "axis"), SQUARE + SQUARE_CONV)
def test_the_axis_of_a_square_weight(key, shape, axis):
    adapter = dora((16, 16, *(3, 3)[: len(shape) - 2]), shape, key)
    assert adapter.axis == axis
    sides = [1] * max(len(shape), 2)
    sides[axis] = 16
    assert list(adapter.magnitude.shape) == sides


def dora(
    weight: tuple[int, ...], magnitude: tuple[int, ...] | Tensor, key: str = "dora_scale"
) -> DoraAdapter:
    lora = random_lora("m", weight)
    m = magnitude if isinstance(magnitude, Tensor) else random_weight(magnitude, 7)
    tensors = {"m.lora_up.weight": lora.up, "m.lora_down.weight": lora.down, f"m.{key}": m}
    (adapter,) = parse_adapter_file(tensors, "style").adapters
    return adapter


CASES = [(kind, axis) for kind in SHAPES for axis in (OUTPUTS, INPUTS)]


def random_dora(kind: str, axis: int) -> DoraAdapter:
    shape = SHAPES[kind]
    return dora(shape, tuple(side if n == axis else 1 for n, side in enumerate(shape)))


@pytest.mark.parametrize(("kind", "axis"), CASES)
@pytest.mark.parametrize("copy_identical", [True, False])
def test_the_same_weight_gives_the_magnitude_of_the_file(kind, axis, copy_identical):
    adapter, weight = random_dora(kind, axis), random_weight(SHAPES[kind])
    moved, row = move(adapter, weight, weight, copy_identical=copy_identical)
    torch.testing.assert_close(moved.magnitude, adapter.magnitude, rtol=0, atol=0)
    assert (row.family, moved.family) == ("DoRA", "DoRA")


@given(
    kind_axis=st.sampled_from(CASES),
    factor=st.floats(1e-3, 1e3),
    seed=st.integers(0, 2**31),
    dead=st.booleans(),
)
def test_a_scaled_weight_scales_the_magnitude(kind_axis, factor, seed, dead):
    kind, axis = kind_axis
    adapter, weight = random_dora(kind, axis), random_weight(SHAPES[kind], seed)
    if dead:
        weight.select(axis, 2).zero_()
    moved, _ = move(adapter, weight, weight * factor)
    want = adapter.magnitude * factor
    if dead:  # 0 / 0: no ratio to keep
        want.select(axis, 2).copy_(adapter.magnitude.select(axis, 2))
    torch.testing.assert_close(moved.magnitude, want, rtol=1e-5, atol=0)


@pytest.mark.parametrize("axis", [OUTPUTS, INPUTS])
def test_zero_columns_in_the_norms(axis):
    """Dead in the source: m stays. Dead in the target: m is 0. Nothing is NaN or infinite."""
    source, target = random_weight((24, 16)), random_weight((24, 16), 1)
    source.select(axis, 1).zero_()
    target.select(axis, 3).zero_()
    adapter = random_dora("linear", axis)
    moved, _ = move(adapter, source, target)
    assert torch.isfinite(moved.magnitude).all()
    values = moved.magnitude.flatten(), adapter.magnitude.flatten()
    assert values[0][1] == values[1][1]
    assert values[0][3] == 0


def test_zero_and_negative_magnitudes_are_kept():
    m = torch.arange(-12.0, 12.0)
    weight = random_weight((24, 16))
    moved, _ = move(dora((24, 16), m[:, None]), weight, 2 * weight)
    torch.testing.assert_close(moved.magnitude, 2 * m[:, None])


# What we write, read back by the libraries on the target model.


def target_of(written: Written) -> Net:
    """Another model: a fine-tuning of the one in the file, whose rows have other norms."""
    net = Net()
    for name, weight in written.weights.items():
        module = net.get_submodule(name.removeprefix("lycoris_").split(".")[-1])
        rows = torch.linspace(0.5, 3, len(weight)).reshape(-1, *[1] * (weight.ndim - 1))
        columns = torch.linspace(2, 0.4, weight.shape[1]).reshape(-1, *[1] * (weight.ndim - 2))
        module.weight.data = drifted(weight) * rows * columns
    return net


def moved_reference(written: Written, name: str, target: Tensor, axis: int) -> np.ndarray:
    """What the target's weight becomes, densely; far from what the unmoved file makes of it."""
    source = written.weights[name]
    tensors = {key: t.double() for key, t in read_safetensors(written.path)[0].items()}
    pair = (("lora_up.", "lora_down."), ("lora_B.", "lora_A."))["base_model" in name]
    up, down = (tensors[f"{name}.{part}weight"].flatten(1).numpy() for part in pair)
    (m,) = (t.flatten().numpy() for k, t in tensors.items() if name in k and is_magnitude(k))
    delta = up @ down  # alpha equals the rank
    subspaces = dense_pair(matrix(source), matrix(target), 0.8)
    projected = dense_project(delta, *subspaces, "full")
    ratio = (
        norms(blocks(matrix(target), target), axis) / norms(blocks(matrix(source), source), axis)
    ).flatten()
    want = merged(target, projected, m * ratio, axis)
    assert relative_error(merged(target, delta, m, axis), want) > 0.1
    assert relative_error(merged(target, projected, m, axis), want) > 0.1
    return want


def is_magnitude(key: str) -> bool:
    return key.endswith((".dora_scale", ".lora_magnitude_vector"))


def moved_tensors(written: Written, net: Net, style: str = "kohya") -> dict[str, Tensor]:
    """Our file for the target."""
    moved = []
    for name, adapter in adapters(written).items():
        target = net.get_submodule(name.removeprefix("lycoris_").split(".")[-1]).weight
        moved.append(move(adapter, written.weights[name], target.detach())[0])
    return lora_state_dict(moved, style=style)


@pytest.mark.parametrize("axis", [OUTPUTS, INPUTS])
def test_lycoris_reads_what_we_write(tmp_path, axis):
    choices = {**LORA, "dora_wd": True, "wd_on_output": axis == OUTPUTS}
    written = by_lycoris(tmp_path, STD, **choices)
    net = target_of(written)
    network = lycoris.create_lycoris(net, linear_dim=4, conv_dim=2, **choices)
    network.apply_to()
    outcome = network.load_state_dict(moved_tensors(written, net), strict=False)
    assert outcome.unexpected_keys == []
    for name, update in lycoris_updates(network).items():
        target = net.get_submodule(name.removeprefix("lycoris_")).weight.detach()
        want = moved_reference(written, name, target, axis)
        assert relative_error(matrix(target) + update, want) < 1e-5, name


def test_peft_reads_what_we_write(tmp_path):
    written = by_peft(tmp_path, PEFT, STD)
    net = target_of(written)
    model = get_peft_model(copy.deepcopy(net), PEFT)
    outcome = set_peft_model_state_dict(model, moved_tensors(written, net, "peft"))
    assert outcome.unexpected_keys == []
    after = model.merge_and_unload()
    for name in MODULES:
        target = net.get_submodule(name).weight.detach()
        want = moved_reference(written, f"base_model.model.{name}", target, OUTPUTS)
        assert relative_error(flat(after.get_submodule(name).weight), want) < 1e-5, name


# Bad files.

UP, DOWN = torch.ones(24, 4), torch.ones(4, 16)
PAIR = {"lora_up.weight": UP, "lora_down.weight": DOWN}
BROKEN = {
    "too long": (
        {**PAIR, "dora_scale": torch.ones(25, 1)},
        r"dora_scale \[25, 1\] of 25 outputs but an update of 24",
    ),
    "too short": (
        {**PAIR, "dora_scale": torch.ones(1, 15)},
        r"dora_scale \[1, 15\] of 15 inputs but an update of 16",
    ),
    "PEFT's on the inputs": (
        {**PAIR, "lora_magnitude_vector": torch.ones(16)},
        r"lora_magnitude_vector \[16\] of 16 outputs but an update of 24",
    ),
    "ai-toolkit's on the inputs": (
        {**PAIR, "magnitude": torch.ones(16)},
        r"magnitude \[16\] of 16 outputs but an update of 24",
    ),
    "a matrix": ({**PAIR, "dora_scale": torch.ones(24, 16)}, "not one row or column"),
    "empty": ({**PAIR, "dora_scale": torch.ones(0, 1)}, "an empty dora_scale"),
    "two": (
        {**PAIR, "dora_scale": torch.ones(24, 1), "magnitude": torch.ones(24)},
        "two DoRA magnitudes, dora_scale and magnitude",
    ),
    "alone": ({"dora_scale": torch.ones(24, 1)}, "has a DoRA dora_scale but no LoRA"),
    "half of a pair": (
        {"lora_up.weight": UP, "dora_scale": torch.ones(24, 1)},
        "LoRA up but no LoRA down",
    ),
    "NaN": (
        {**PAIR, "dora_scale": torch.full((24, 1), float("nan"))},
        "dora_scale of the module m, .*NaN",
    ),
    "quantised": (
        {**PAIR, "dora_scale": torch.ones(24, 1, dtype=torch.int8)},
        "stored as torch.int8",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_modules(kind):
    parts, words = BROKEN[kind]
    with pytest.raises(ProLoRAError, match=rf"^style: .*{words}"):
        parse_adapter_file({f"m.{k}": v for k, v in parts.items()}, "style")


def test_a_magnitude_that_only_the_weight_shows_to_be_wrong():
    """12 inputs divide the 36 = in * kh * kw of the update, but the weight has 4."""
    adapter = dora((24, 4, 3, 3), (1, 12, 1, 1))
    weight = random_weight((24, 4, 3, 3))
    with pytest.raises(ProLoRAError, match=r"module m has .* of 12 values, .* has 4 inputs"):
        move(adapter, weight, drifted(weight))


def test_over_foura():
    """The magnitude goes with whatever family the module is."""
    tensors = {
        "m.foura_up.weight": UP,
        "m.foura_down.weight": DOWN,
        "m.foura_transform": torch.tensor(0),
        "m.dora_scale": torch.ones(24, 1),
    }
    (adapter,) = parse_adapter_file(tensors, "style").adapters
    assert (adapter.family, adapter.rank) == ("DoRA over FouRA", 8)
    assert "by the DFT" in adapter.note
    weight = random_weight((24, 16))
    moved, row = move(adapter, weight, drifted(weight))
    assert (moved.family, row.family) == ("DoRA", "DoRA over FouRA")
    assert {key.split(".", 1)[1] for key in lora_state_dict([moved])} == {
        "lora_up.weight",
        "lora_down.weight",
        "alpha",
        "dora_scale",
    }


@pytest.mark.parametrize(("shape", "told"), [((24, 1), True), ((1, 16), False)])
def test_what_comfyui_makes_of_it_is_told(shape, told):
    file = parse_adapter_file(
        {f"m.{key}": tensor for key, tensor in {**PAIR, "dora_scale": torch.ones(shape)}.items()},
        "style",
    )
    assert ("ComfyUI divides a DoRA by other norms" in file.adapters[0].note) is told
