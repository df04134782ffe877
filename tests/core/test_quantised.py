"""Weights in fewer bits: every value against the form's definition, written out in numpy."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prolora.errors import ProLoRAError
from prolora.models.model import Model
from prolora.models.quantised import FORMS
from prolora.models.references import WeightRef
from prolora.models.weights import SafetensorsWeights, StateDictWeights

RANDOM = np.random.default_rng(0)
ROWS, COLUMNS = 200, 320  # two tiles of scales, the second one padded


def minifloat(bits: np.ndarray, exponent: int, mantissa: int) -> np.ndarray:
    """IEEE 754's rule for a float of so many bits, in float64."""
    bits = bits.astype(np.int64)
    bias = 2 ** (exponent - 1) - 1
    sign = 1 - 2 * (bits >> (exponent + mantissa))
    power = (bits >> mantissa) % 2**exponent
    fraction = (bits % 2**mantissa) / 2**mantissa
    normal = 2.0 ** (power - bias) * (1 + fraction)
    return sign * np.where(power == 0, 2.0 ** (1 - bias) * fraction, normal)


def random_fp8(shape: tuple[int, ...], largest: int = 0x7E) -> np.ndarray:
    """Bytes of finite e4m3 numbers (0x7f is NaN)."""
    signs = RANDOM.integers(0, 2, shape) << 7
    return (RANDOM.integers(0, largest + 1, shape) | signs).astype(np.uint8)


def in_tiles(scales: np.ndarray) -> np.ndarray:
    """cuBLAS' layout of block scales: tiles of 128 rows and 4 blocks, 512 bytes each."""
    rows, blocks = scales.shape
    across, along = -(-rows // 128), -(-blocks // 4)
    tiled = np.zeros(across * along * 512, np.uint8)
    for row in range(rows):
        for block in range(blocks):
            tile = (row // 128) * along + block // 4
            inside = (row % 32) * 16 + (row % 128 // 32) * 4 + block % 4
            tiled[tile * 512 + inside] = scales[row, block]
    return tiled.reshape(across * 128, along * 4)


def fp8(data: np.ndarray, dtype: torch.dtype = torch.float8_e4m3fn) -> torch.Tensor:
    return torch.from_numpy(data).view(dtype)


def mark(**options: object) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(options).encode()), dtype=torch.uint8)


def hadamard(size: int) -> np.ndarray:
    """The regular Hadamard matrix: 1, but -1 where the base-4 digits of row and column add up to
    3 an odd number of times; orthogonal when divided by the root of its size."""
    matrix = np.ones((size, size))
    for row in range(size):
        for column in range(size):
            i, j = row, column
            while i or j:
                matrix[row, column] *= -1 if i % 4 + j % 4 == 3 else 1
                i, j = i // 4, j // 4
            # leading zeros add up to 0
    return matrix / np.sqrt(size)


Case = tuple[dict[str, torch.Tensor], np.ndarray]


def scaled_fp8(part: str, marked: bool, per_row: bool = False) -> Case:
    data = random_fp8((ROWS, COLUMNS))
    scale = RANDOM.uniform(0.01, 0.1, (ROWS, 1) if per_row else ()).astype(np.float32)
    tensors = {"l.weight": fp8(data), f"l.{part}": torch.from_numpy(np.asarray(scale))}
    if marked:
        tensors["l.comfy_quant"] = mark(format="float8_e4m3fn", full_precision_matrix_mult=True)
    else:
        tensors["scaled_fp8"] = torch.zeros(2, dtype=torch.float8_e4m3fn)
    return tensors, minifloat(data, 4, 3) * scale


def scaled_e5m2() -> Case:
    data = random_fp8((ROWS, COLUMNS), largest=0x7B)
    scale = torch.tensor([0.125])
    tensors = {"l.weight": fp8(data, torch.float8_e5m2), "l.weight_scale": scale}
    return tensors | {"l.comfy_quant": mark(format="float8_e5m2")}, minifloat(data, 5, 2) / 8


def int8(per_row: bool) -> Case:
    data = RANDOM.integers(-128, 128, (ROWS, COLUMNS)).astype(np.int8)
    scale = RANDOM.uniform(0.01, 0.1, (ROWS, 1) if per_row else ()).astype(np.float32)
    parts = {
        "l.weight": torch.from_numpy(data),
        "l.weight_scale": torch.from_numpy(np.asarray(scale)),
    }
    return parts | {"l.comfy_quant": mark(format="int8_tensorwise")}, data * scale.astype(float)


def rotated_int8(options: dict[str, object], size: int) -> Case:
    tensors, values = int8(per_row=True)
    rotation = hadamard(size)
    assert np.allclose(rotation @ rotation, np.eye(size))
    back = (values.reshape(ROWS, -1, size) @ rotation).reshape(ROWS, COLUMNS)
    assert np.abs(back - values).max() > 1
    return tensors | {"l.comfy_quant": mark(format="int8_tensorwise", **options)}, back


def mxfp8(scale_dtype: torch.dtype) -> Case:
    data = random_fp8((ROWS, COLUMNS))
    exponents = RANDOM.integers(110, 140, (ROWS, COLUMNS // 32))
    tensors = {
        "l.weight": fp8(data),
        "l.weight_scale": torch.from_numpy(in_tiles(exponents)).view(scale_dtype),
        "l.comfy_quant": mark(format="mxfp8"),
    }
    return tensors, minifloat(data, 4, 3) * np.repeat(2.0 ** (exponents - 127), 32, axis=1)


def nvfp4(scale_dtype: torch.dtype) -> Case:
    codes = RANDOM.integers(0, 16, (ROWS, COLUMNS)).astype(np.uint8)
    scales = random_fp8((ROWS, COLUMNS // 16)) & 0x7F
    tensors = {
        "l.weight": torch.from_numpy(codes[:, ::2] << 4 | codes[:, 1::2]),
        "l.weight_scale": torch.from_numpy(in_tiles(scales)).view(scale_dtype),
        "l.weight_scale_2": torch.tensor(0.25),
        "l.comfy_quant": mark(format="nvfp4"),
    }
    return tensors, minifloat(codes, 2, 1) * np.repeat(minifloat(scales, 4, 3), 16, axis=1) / 4


CASES = {
    "fp8, one scale, older form": scaled_fp8("scale_weight", marked=False),
    "fp8, one scale": scaled_fp8("weight_scale", marked=True),
    "fp8, a scale a row": scaled_fp8("weight_scale", marked=True, per_row=True),
    "fp8, no comfy_quant": scaled_fp8("weight_scale", marked=False),
    "fp8 e5m2": scaled_e5m2(),
    "int8": int8(per_row=False),
    "int8, a scale a row": int8(per_row=True),
    "int8, rotated": rotated_int8({"convrot": True, "convrot_groupsize": 64}, 64),
    "int8, rotated, options apart": rotated_int8(
        {"params": {"convrot": True, "convrot_groupsize": 16}}, 16
    ),
    "mxfp8, scales as bytes": mxfp8(torch.uint8),
    "nvfp4": nvfp4(torch.float8_e4m3fn),
    "nvfp4, scales as bytes": nvfp4(torch.uint8),
}  # fmt: skip
if hasattr(torch, "float8_e8m0fnu"):  # torch 2.7 and later
    CASES["mxfp8"] = mxfp8(torch.float8_e8m0fnu)


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize("kind", CASES)
def test_true_values(tmp_path, kind, from_file):
    tensors, want = CASES[kind]
    weights = StateDictWeights(tensors)
    if from_file:
        save_file(tensors, tmp_path / "a.safetensors")
        weights = SafetensorsWeights(tmp_path / "a.safetensors")
    assert weights.shape("l.weight") == want.shape == (ROWS, COLUMNS)
    model = Model("A", "SDXL", weights, {})
    read = model.weight(WeightRef("l.weight"), torch.device("cpu"), torch.float32).double().numpy()
    stored = tensors["l.weight"]
    if stored.shape == want.shape:
        assert np.abs(stored.double().numpy() - want).max() > 0.1 * np.abs(want).max()
    assert np.abs(read - want).max() <= 1e-6 * np.abs(want).max()


def test_what_the_header_says_counts_like_comfy_quant(tmp_path):
    tensors, want = CASES["nvfp4"]
    tensors = {key: value for key, value in tensors.items() if not key.endswith("comfy_quant")}
    header = {"format_version": "1.0", "layers": {"l": {"format": "nvfp4"}, "m": {"format": "x"}}}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, {"_quantization_metadata": json.dumps(header)})
    weights = SafetensorsWeights(path)
    assert weights.shape("l.weight") == want.shape
    assert np.allclose(weights.read("l.weight").numpy(), want, rtol=1e-6)
    assert set(weights) == set(tensors)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"layers": ["l"]}', "[" * 100_000])
def test_a_header_that_cannot_be_read(tmp_path, text):
    save_file({"l.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors",
              {"_quantization_metadata": text})  # fmt: skip
    with pytest.raises(ProLoRAError, match=r"_quantization_metadata\) cannot be read. Use an fp16"):
        SafetensorsWeights(tmp_path / "a.safetensors")


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.mark.parametrize("dtype", FLOATS)
def test_weights_that_are_stored_as_they_are(tmp_path, dtype):
    tensors = {"l.weight": torch.randn(24, 16).to(dtype), "l.input_scale": torch.tensor(3.0)}
    save_file(tensors, tmp_path / "a.safetensors")
    model = Model("A", "SDXL", SafetensorsWeights(tmp_path / "a.safetensors"), {})
    read = model.weight(WeightRef("l.weight"), torch.device("cpu"), torch.float32)
    assert torch.equal(read, tensors["l.weight"].float())


def without(kind: str, part: str) -> dict[str, torch.Tensor]:
    return {key: value for key, value in CASES[kind][0].items() if key != f"l.{part}"}


def changed(kind: str, **parts: torch.Tensor) -> dict[str, torch.Tensor]:
    return CASES[kind][0] | {f"l.{part}": tensor for part, tensor in parts.items()}


# What lies in the file, and what the refusal says of it.
REFUSED = {
    "int4 of W4A4": (changed("int8", comfy_quant=mark(format="convrot_w4a4")), r"ConvRot W4A4"),
    "int4 of W4A8": (changed("int8", comfy_quant=mark(format="asym_w4a8_int8")), r"int4 \(W4A8\)"),
    "a later form": (changed("int8", comfy_quant=mark(format="fp3")), "'fp3', a form unknown here"),
    "no form": (changed("int8", comfy_quant=mark()), "'None', a form unknown here"),
    "no JSON": (changed("int8", comfy_quant=torch.zeros(3, dtype=torch.uint8)), "does not say"),
    "JSON without end": (
        changed("int8", comfy_quant=torch.full((100_000,), ord("["), dtype=torch.uint8)),
        "does not say",
    ),
    "complex scales": (
        changed("int8", weight_scale=torch.ones(ROWS, 1, dtype=torch.complex64)),
        "scales are torch.complex64",
    ),
    "whole scales": (
        changed("nvfp4", weight_scale_2=torch.ones(1, dtype=torch.int32)),
        r"weight_scale_2 has the shape \[1\] of torch.int32",
    ),
    "no scale": (without("fp8, one scale", "weight_scale"), "l.weight_scale is missing"),
    "no second scale": (without("nvfp4", "weight_scale_2"), "l.weight_scale_2 is missing"),
    "nvfp4 of others": (without("nvfp4", "comfy_quant"), "nvfp4 without ComfyUI's comfy_quant"),
    "mxfp8 of others": (
        without("mxfp8, scales as bytes", "comfy_quant"),
        r"scales have the shape \[256, 12\]",
    ),
    "fp8 in blocks": (
        {"l.weight": fp8(random_fp8((ROWS, COLUMNS))), "l.weight_scale_inv": torch.ones(2, 3)},
        r"fp8 in blocks \(weight_scale_inv\)",
    ),
    "a scale a column": (
        changed("fp8, one scale", weight_scale=torch.ones(1, COLUMNS)),
        r"scales have the shape \[1, 320\]",
    ),
    "a scale a row, flat": (
        changed("int8", weight_scale=torch.ones(ROWS)),
        r"scales have the shape \[200\]",
    ),
    "too few scales": (
        changed("nvfp4", weight_scale=torch.ones(128, 4).to(torch.float8_e4m3fn)),
        r"scales are torch.float8_e4m3fn of the shape \[128, 4\]",
    ),
    "scales in fp32": (
        changed("mxfp8, scales as bytes", weight_scale=torch.ones(64, 12)),
        r"scales are torch.float32 of the shape \[64, 12\]",
    ),
    "a scale of two": (
        changed("nvfp4", weight_scale_2=torch.ones(2)),
        r"weight_scale_2 has the shape \[2\]",
    ),
    "experts": (
        changed("nvfp4", weight=torch.zeros(2, 4, 8, dtype=torch.uint8)),
        "it has 3 dimensions",
    ),
    "smoothed": (
        changed("nvfp4", pre_quant_scale=torch.ones(COLUMNS)),
        "it goes with l.pre_quant_scale",
    ),
    "another dtype": (changed("int8", weight=torch.ones(ROWS, 4)), "but holds torch.float32"),
    "an odd rotation": (
        changed("int8", comfy_quant=mark(format="int8_tensorwise", convrot=True)),
        "rotated in groups of 256",
    ),
    "a rotation of any size": (
        changed("int8", comfy_quant=mark(
            format="int8_tensorwise", convrot=True, convrot_groupsize=4**20)),
        "rotated in groups of",
    ),
    "bitsandbytes": (
        {"l.weight": torch.zeros(64, 1, dtype=torch.uint8), "l.weight.absmax": torch.ones(2)},
        "bitsandbytes 4-bit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_by_name(kind):
    tensors, words = REFUSED[kind]
    weights = StateDictWeights(tensors)
    with pytest.raises(ProLoRAError) as refusal:
        weights.shape("l.weight")
        weights.read("l.weight")
    assert str(refusal.value).startswith("The weight l.weight is quantised as ")
    assert str(refusal.value).endswith(
        "from a file. Use an fp16, bf16 or fp32 version of this model, or load it in the graph "
        "and connect its MODEL."
    )
    refusal.match(words)


def test_the_file_is_named(tmp_path):
    save_file({"l.weight": torch.ones(4, 4), "l.comfy_quant": mark(format="fp3")},
              tmp_path / "a.safetensors")  # fmt: skip
    with pytest.raises(ProLoRAError, match=r"^The weight l\.weight of a\.safetensors is quantised"):
        SafetensorsWeights(tmp_path / "a.safetensors").shape("l.weight")


@pytest.mark.parametrize("form", [name for name, form in FORMS.items() if form.packed == 2])
def test_packed_forms_have_the_shape_of_their_values(form):
    tensors = {"l.weight": torch.zeros(4, 8, dtype=torch.int8), "l.comfy_quant": mark(format=form)}
    assert StateDictWeights(tensors).shape("l.weight") == (4, 16)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("b.0.qweight", "Nunchaku's SVDQuant"),
        ("b.0.weight._data", "quanto"),
        ("b.0.weight_packed", "compressed-tensors"),
    ],
)
def test_files_without_weights(tmp_path, key, words):
    save_file({key: torch.zeros(4, 4, dtype=torch.int8)}, tmp_path / "a.safetensors")
    with pytest.raises(ProLoRAError, match=rf"a\.safetensors is quantised as .*{words}.*connect"):
        SafetensorsWeights(tmp_path / "a.safetensors")


def test_other_keys_are_read_as_they_are():
    tensors = {"l.bias": torch.ones(2), "l.weight_scale": torch.ones(2), "x_weight": torch.ones(2)}
    weights = StateDictWeights(tensors)
    for key in tensors:
        assert weights.read(key) is tensors[key]
