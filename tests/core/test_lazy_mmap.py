"""Tensors are mapped from a file as the safetensors library reads them, whatever its size."""

import json
import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.inventory import write_header_only
from prolora.files import lazy_mmap
from prolora.files.lazy_mmap import MappedFile
from prolora.files.safetensors import open_safetensors

NEWER = ("float8_e8m0fnu", "uint16", "uint32")  # than torch 2.1
KINDS = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.float8_e4m3fn, torch.float8_e5m2, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(getattr(torch, name) for name in NEWER if hasattr(torch, name)),
]
SHAPES = [(3, 5), (7,), (), (0, 4), (2, 3, 1, 1)]


def tensor_of(kind: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    bits = torch.randint(0, 2 if kind is torch.bool else 60, (*shape, kind.itemsize))
    return bits.to(torch.uint8).view(kind).reshape(shape)


@pytest.fixture
def path(tmp_path):
    torch.manual_seed(0)
    tensors = {f"{kind}.{i}": tensor_of(kind, s) for kind in KINDS for i, s in enumerate(SHAPES)}
    save_file(tensors, tmp_path / "all.safetensors")
    return tmp_path / "all.safetensors"


def bits(tensor: torch.Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("stretch", [1, 64, 2**30])
def test_every_kind_of_tensor(path, monkeypatch, stretch):
    monkeypatch.setattr(lazy_mmap, "_STRETCH", stretch)
    expected = load_file(path)
    with open_safetensors(path) as file:
        found = file.get_tensors(file.keys())
        one = file.get_tensor("torch.bfloat16.0")
    assert torch.equal(one, expected["torch.bfloat16.0"])
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        assert bits(found[key]) == bits(tensor), key


def test_writing_to_a_tensor_does_not_reach_the_file(path):
    before = path.read_bytes()
    with open_safetensors(path) as file:
        file.get_tensor("torch.float32.0").fill_(1)
        assert not file.get_tensor("torch.float32.0").eq(1).all()
    assert path.read_bytes() == before


def test_a_tensor_that_lies_askew(tmp_path):
    entries = {"odd": ("U8", [3], b"\1\2\3"), "b": ("F32", [1], b"\0\0\x80\x3f")}
    header, data = {}, b""
    for key, (kind, shape, content) in entries.items():
        ends = (len(data), len(data) + len(content))
        header[key], data = {"dtype": kind, "shape": shape, "data_offsets": ends}, data + content
    text = json.dumps(header).encode()
    path = tmp_path / "askew.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    assert MappedFile(path).tensors(["b"])["b"].tolist() == [1.0]


def test_a_kind_that_torch_does_not_have_is_left_to_the_library(path, monkeypatch):
    monkeypatch.delitem(lazy_mmap._DTYPES, "BF16")
    with open_safetensors(path) as file:
        assert torch.equal(file.get_tensor("torch.bfloat16.0"), load_file(path)["torch.bfloat16.0"])


@pytest.mark.skipif(not hasattr(os, "sysconf"), reason="asks how much memory there is")
def test_a_file_larger_than_memory(tmp_path):
    """Three times as large, or 96 GB; nothing of it lies on the disk."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    path, rows = tmp_path / "huge.safetensors", max(3 * memory, 96 * 10**9) // 2**20 // 50
    shapes = {f"{i}.weight": (rows, 2**19) for i in range(50)} | {"last": (4,)}
    try:
        write_header_only(path, shapes)
    except OSError:
        pytest.skip("this disk has no sparse files of that size")
    with open_safetensors(path) as file:
        tensors = file.get_tensors(file.keys())
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == shapes
    assert tensors["49.weight"][-1, -1] == 0
    assert tensors["last"].tolist() == [0, 0, 0, 0]
