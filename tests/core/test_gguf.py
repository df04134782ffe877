"""GGUF, in ComfyUI-GGUF's tensors and in files, against what the gguf package unpacks."""

import math
import struct
import sys

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file

from prolora.adapters import lora_state_dict
from prolora.command_line import main
from prolora.errors import ProLoRAError
from prolora.files.safetensors import write_safetensors
from prolora.models.ggml import from_ggml, is_ggml
from prolora.models.gguf_header import read_header
from prolora.models.key_map import load_checkpoint

from .checkpoints import SD3
from .small_models import random_lora

RANDOM = np.random.default_rng(0)
WRITTEN = [Kind.Q8_0, Kind.Q5_0, Kind.Q5_1, Kind.Q4_0, Kind.Q4_1, Kind.BF16]
# The package reads these but does not write them: any bytes are blocks.
READ_ONLY = [Kind.Q2_K, Kind.Q3_K, Kind.Q4_K, Kind.Q5_K, Kind.Q6_K, Kind.IQ4_NL, Kind.IQ4_XS]


class GGMLTensor(torch.Tensor):
    """Behaves as ComfyUI-GGUF's class does: bytes inside, the values' shape outside."""

    def __new__(cls, data, *, tensor_type, tensor_shape):
        return super().__new__(cls, data)

    def __init__(self, data, *, tensor_type, tensor_shape):
        super().__init__()
        self.tensor_type, self.tensor_shape = tensor_type, tensor_shape

    def to(self, *args, **kwargs):
        new = super().to(*args, **kwargs)
        new.tensor_type, new.tensor_shape = self.tensor_type, self.tensor_shape
        return new

    def clone(self, *args, **kwargs):
        return self

    def detach(self, *args, **kwargs):
        return self

    @property
    def shape(self):
        return getattr(self, "tensor_shape", self.size())


def blocks(kind: Kind, shape: tuple[int, ...]) -> np.ndarray:
    """Rows of bytes: of random values where the package can pack them, else with plain scales."""
    flat = (math.prod(shape[:-1]), shape[-1])
    if kind in WRITTEN:
        return quantize(RANDOM.standard_normal(flat).astype(np.float32), kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    data = RANDOM.integers(0, 256, (math.prod(flat) // block, size)).astype(np.uint8)
    data[:, 1::2] &= 0x3B  # wherever its fp16 scales lie, none is infinite or NaN
    return data.reshape(flat[0], -1)


def loaded(kind: Kind, shape: tuple[int, ...]) -> torch.Tensor:
    data = torch.from_numpy(blocks(kind, shape))
    tensor = GGMLTensor(data, tensor_type=kind, tensor_shape=torch.Size(shape))
    return torch.nn.Parameter(tensor, requires_grad=False)


@pytest.mark.parametrize("shape", [(48, 256), (12, 2, 2, 256)])
@pytest.mark.parametrize("kind", [*WRITTEN, *READ_ONLY], ids=lambda kind: kind.name)
def test_a_tensor_of_comfyui_gguf(kind, shape):
    tensor = loaded(kind, shape)
    assert is_ggml(tensor)
    assert (tensor.dtype, tuple(tensor.shape)) == (torch.uint8, shape)
    values = from_ggml(tensor, "x.weight")
    want = dequantize(tensor.as_subclass(torch.Tensor).numpy(), kind).reshape(shape)
    assert (type(values), values.dtype, tuple(values.shape)) == (torch.Tensor, torch.float32, shape)
    assert np.isfinite(want).all()
    assert want.std() > 0
    assert np.array_equal(values.numpy(), want)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_tensor_that_holds_the_values_themselves(dtype):
    plain = torch.randn(6, 4).to(dtype)
    tensor = GGMLTensor(plain, tensor_type=Kind.F16, tensor_shape=plain.shape)
    values = from_ggml(tensor, "x.weight")
    assert type(values) is torch.Tensor
    assert torch.equal(values, plain)
    assert not is_ggml(plain)


def test_without_the_package(monkeypatch, tmp_path):
    tensor = loaded(Kind.Q8_0, (4, 64))
    monkeypatch.setitem(sys.modules, "gguf", None)
    words = r"weight x\.weight is stored as GGUF \(Q8_0\).*pip install gguf.*fp16"
    with pytest.raises(ProLoRAError, match=words):
        from_ggml(tensor, "x.weight")
    with pytest.raises(ProLoRAError, match=r"m\.gguf is a GGUF file.*pip install gguf"):
        load_checkpoint(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("kind", "shape", "words"),
    [
        (Kind.I8, (4, 34), "I8"),  # no quantised values
        (Kind.Q8_0, (4, 33), r"136 bytes are no \[4, 33\]"),
        (None, (4, 32), "None"),
    ],
)
def test_bytes_that_stand_for_nothing_known(kind, shape, words):
    data = torch.zeros(4, 34, dtype=torch.uint8)
    tensor = GGMLTensor(data, tensor_type=kind, tensor_shape=torch.Size(shape))
    with pytest.raises(ProLoRAError, match=rf"x\.weight is stored as GGUF .*{words}.*Update the"):
        from_ggml(tensor, "x.weight")


def write_gguf(path, tensors, kind=None, prefix=""):
    """As ComfyUI-GGUF's converter does: matrices packed, the shape of convolutions noted."""
    writer = gguf.GGUFWriter(path, "sd3")
    for key, value in tensors.items():
        data = value.float().numpy()
        if data.ndim > 2:
            writer.add_array(f"comfy.gguf.orig_shape.{prefix}{key}", [int(n) for n in data.shape])
            data = data.reshape(-1, 32)
        packed = kind is not None and data.ndim == 2 and data.shape[1] % 32 == 0
        if packed:
            writer.add_tensor(prefix + key, quantize(data, kind), raw_dtype=kind)
        else:
            writer.add_tensor(prefix + key, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


TENSORS = {
    "joint_blocks.0.x_block.attn.qkv.weight": torch.randn(24, 64),
    "joint_blocks.0.x_block.attn.qkv.bias": torch.randn(24),
    "x_embedder.proj.weight": torch.randn(16, 8, 2, 2),
}


@pytest.mark.parametrize("kind", [None, Kind.F16, *WRITTEN], ids=str)
def test_a_file(tmp_path, kind):
    path = tmp_path / "model.gguf"
    write_gguf(path, TENSORS, kind)
    model = load_checkpoint(path)
    assert (model.name, model.architecture) == ("model.gguf", "SD3")
    assert set(model.weights) == {f"diffusion_model.{key}" for key in TENSORS}
    assert {"lora_unet_joint_blocks_0_x_block_attn_qkv", "diffusion_model.x_embedder.proj"} <= set(
        model.key_map
    )
    for bare, tensor in TENSORS.items():
        key = f"diffusion_model.{bare}"
        assert key in model.weights
        assert model.weights.shape(key) == tuple(tensor.shape)
        want = tensor.numpy()
        if kind is not None and want.ndim > 1:
            rows = want.reshape(-1, 32 if want.ndim > 2 else want.shape[-1])
            want = dequantize(quantize(rows, kind), kind).reshape(want.shape)
            assert not np.array_equal(want, tensor.numpy())
        assert np.array_equal(model.weights.read(key).numpy(), want)


def test_damaged_files(tmp_path):
    whole, path = tmp_path / "whole.gguf", tmp_path / "model.gguf"
    write_gguf(whole, TENSORS, Kind.Q8_0)
    data = whole.read_bytes()
    damaged = [data[:size] for size in (*range(0, 400, 7), len(data) // 2, len(data) - 64)]
    for content in (*damaged, b"<html>" * 20, b"GGUF" + b"\xff" * 60, b"\0" * 64):
        path.write_bytes(content)
        with pytest.raises(ProLoRAError, match=r"model\.gguf is not a readable GGUF.*again"):
            load_checkpoint(path)
    with pytest.raises(ProLoRAError, match=r"absent\.gguf does not exist"):
        load_checkpoint(tmp_path / "absent.gguf")


def test_the_command_line(tmp_path, capsys):
    save_file(SD3, tmp_path / "a.safetensors")
    bare = {
        key.removeprefix("model.diffusion_model."): t for key, t in SD3.items() if "joint" in key
    }
    write_gguf(tmp_path / "b.gguf", bare)
    lora = random_lora("lora_unet_joint_blocks_0_x_block_attn_qkv", (8, 8), rank=2)
    write_safetensors(lora_state_dict([lora]), tmp_path / "style.safetensors", {})
    files = [str(tmp_path / name) for name in ("style.safetensors", "a.safetensors", "b.gguf")]
    out = str(tmp_path / "out.safetensors")
    for source, target in ((files[1], files[2]), (files[2], files[1])):
        choices = ["--source", source, "--target", target, "-o", out, "--force"]
        assert main(["transfer", files[0], *choices]) == 0
        assert "1 of 1 modules transferred" in capsys.readouterr().out
    assert main(["inspect", files[2]]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"b.gguf: a checkpoint, architecture SD3, {len(bare)} tensors",
        f"- {len(bare)} of them can carry a LoRA",
    ]


CLAIMED = {
    "tensors": b"GGUF\x03\0\0\0" + struct.pack("<QQ", 2**60, 0),
    "values": b"GGUF\x03\0\0\0" + struct.pack("<QQ", 0, 2**60),
    "an array": b"GGUF\x03\0\0\0" + struct.pack("<QQQcIIQ", 0, 1, 1, b"x", 9, 0, 2**60),
    "texts": b"GGUF\x03\0\0\0" + struct.pack("<QQQcIIQ", 0, 1, 1, b"x", 9, 8, 2**60),
    "a text": b"GGUF\x03\0\0\0" + struct.pack("<QQQcIQ", 0, 1, 1, b"x", 8, 2**63),
    "sides": b"GGUF\x03\0\0\0" + struct.pack("<QQQcI", 1, 0, 1, b"x", 2**32 - 1),
    "terabytes": b"GGUF\x03\0\0\0"
    + struct.pack("<QQQcIQQIQ", 1, 0, 1, b"x", 2, 2**20, 2**20, 0, 0),
}


@pytest.mark.parametrize("claim", CLAIMED)
def test_a_header_is_not_believed(tmp_path, claim):
    """The gguf package is at work on the first ones until the memory ends."""
    path = tmp_path / "model.gguf"
    path.write_bytes(CLAIMED[claim])
    with pytest.raises(ProLoRAError, match=r"model\.gguf is not a readable GGUF file: it "):
        load_checkpoint(path)


@pytest.mark.parametrize("kind", [None, *WRITTEN], ids=str)
def test_the_package_finds_tensors_where_we_do(tmp_path, kind):
    path = tmp_path / "model.gguf"
    write_gguf(path, TENSORS, kind)
    theirs = gguf.GGUFReader(path)
    with path.open("rb") as file:
        ours = read_header(file, path.stat().st_size)
    assert list(ours.tensors) == [tensor.name for tensor in theirs.tensors]
    for tensor in theirs.tensors:
        found = ours.tensors[tensor.name]
        assert found.sides == tuple(tensor.shape)
        assert (found.kind, found.start) == (tensor.tensor_type, tensor.data_offset)


def test_two_shapes_of_one_tensor(tmp_path):
    """The field beside it is for a tensor that was flattened."""
    for shape in ([16, 8, 2, 3], [-16, -8, 2, 2], [0, 0]):
        writer = gguf.GGUFWriter(tmp_path / "model.gguf", "sd3")
        writer.add_array("comfy.gguf.orig_shape.x.weight", shape)
        writer.add_tensor("x.weight", np.ones((16, 32), np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        with pytest.raises(ProLoRAError, match=r"x\.weight has two shapes"):
            load_checkpoint(tmp_path / "model.gguf")
