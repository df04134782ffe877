"""Tensors are read from a file as the safetensors library reads them, whatever becomes of it."""

import faulthandler
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fixtures.inventory import write_header_only
from prolora.errors import ProLoRAError
from prolora.files import stored
from prolora.files.safetensors import SafetensorsFile, open_safetensors, read_safetensors

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


@pytest.mark.parametrize("piece", [1, 7, 2**30])
def test_every_kind_of_tensor(path, monkeypatch, piece):
    monkeypatch.setattr(stored, "_PIECE", piece)
    expected, file = load_file(path), open_safetensors(path)
    found = file.get_tensors(file.keys())
    assert torch.equal(file.get_tensor("torch.bfloat16.0"), expected["torch.bfloat16.0"])
    assert found.keys() == expected.keys()
    for key, tensor in expected.items():
        assert (found[key].dtype, found[key].shape) == (tensor.dtype, tensor.shape), key
        assert (file.dtype(key), file.shape(key)) == (tensor.dtype, tensor.shape), key
        assert bits(found[key]) == bits(tensor), key


@pytest.mark.parametrize("inference", [False, True])
def test_an_unread_tensor_is_read_when_its_values_are_asked_for(path, monkeypatch, inference):
    expected = load_file(path)
    with torch.inference_mode(inference):
        found = open_safetensors(path).unread()
        with monkeypatch.context() as patch:
            patch.setattr(SafetensorsFile, "get_tensors", None)  # which would be called to read
            for key, tensor in found.items():
                assert (tensor.dtype, tensor.shape) == (expected[key].dtype, expected[key].shape)
        for key, tensor in found.items():
            assert bits(tensor.clone()) == bits(expected[key]), key
        numbers = found["torch.float32.0"]
        assert torch.std(numbers) == torch.std(expected["torch.float32.0"])
        assert numbers[1, 2].item() == expected["torch.float32.0"][1, 2].item()
        assert not isinstance(numbers.clone(), stored.Unread)


def test_writing_to_a_tensor_does_not_reach_the_file(path):
    before, file = path.read_bytes(), open_safetensors(path)
    file.get_tensor("torch.float32.0").fill_(1)
    assert not file.get_tensor("torch.float32.0").eq(1).all()
    assert path.read_bytes() == before


def test_a_kind_that_torch_does_not_have_is_named(path, monkeypatch):
    monkeypatch.delitem(stored._DTYPES, "BF16")
    file = open_safetensors(path)
    assert file.get_tensor("torch.float32.0").shape == (3, 5)
    with pytest.raises(ProLoRAError, match=r"torch\.bfloat16\.0 is stored as BF16, which torch"):
        file.get_tensor("torch.bfloat16.0")


@pytest.mark.skipif(not hasattr(torch, "float4_e2m1fn_x2"), reason="torch 2.8 and later")
def test_numbers_of_four_bits(tmp_path):
    bytes_ = torch.arange(12, dtype=torch.uint8).view(3, 4)
    save_file({"a": bytes_.view(torch.float4_e2m1fn_x2)}, tmp_path / "a.safetensors")
    (found,) = read_safetensors(tmp_path / "a.safetensors")[0].values()
    assert found.dtype == torch.float4_e2m1fn_x2
    assert torch.equal(found.view(torch.uint8), bytes_)


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
    tensors = open_safetensors(path).unread()
    assert {key: tuple(tensor.shape) for key, tensor in tensors.items()} == shapes
    assert tensors["last"].clone().tolist() == [0, 0, 0, 0]


SIZE = 1 << 20


def replaced(path: Path) -> None:
    save_file({"x": torch.zeros(SIZE)}, path.with_name("other"))
    path.with_name("other").replace(path)


def overwritten(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(SIZE)
        file.write(b"12345678")


FAULTS: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, 1000),
    "emptied": lambda path: os.truncate(path, 0),
    "removed": lambda path: path.unlink(),
    "replaced": replaced,
    "overwritten": overwritten,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_file_that_is_no_more_what_it_was(tmp_path, fault):
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.ones(SIZE)}, path)
    os.utime(path, (10**9, 10**9))  # so that a change bears another time, on any disk
    file = open_safetensors(path)
    assert file.get_tensor("x").sum() == SIZE
    FAULTS[fault](path)
    with pytest.raises(ProLoRAError, match=r"model\.safetensors was replaced, written to or rem"):
        file.get_tensor("x")


@pytest.mark.parametrize("fault", ["cut", "overwritten"])
def test_a_file_that_changes_while_a_tensor_is_read(tmp_path, monkeypatch, fault):
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.ones(SIZE), "y": torch.ones(SIZE)}, path)
    os.utime(path, (10**9, 10**9))
    file = open_safetensors(path)

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        FAULTS[fault](path)
        return tensor

    assert file.get_tensors(["x", "y"]).keys() == {"x", "y"}
    with pytest.raises(ProLoRAError, match=r"model\.safetensors was replaced, written to or rem"):
        file.get_tensors(["x", "y"], hold)


@pytest.mark.skipif(sys.platform != "linux", reason="sees how a process ended")
@pytest.mark.parametrize("how", ["mapped by the library", "read"])
def test_a_file_that_is_cut_does_not_end_the_process(tmp_path, how):
    """The library's own tensors do: a page that is no more there is a SIGBUS."""
    path = tmp_path / "model.safetensors"
    save_file({"x": torch.ones(SIZE)}, path)
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        read = load_file if how.startswith("mapped") else (lambda path: read_safetensors(path)[0])
        tensor = read(path)["x"]
        os.truncate(path, 0)
        os._exit(0 if tensor.sum() == SIZE else 1)
    _, status = os.waitpid(child, 0)
    if how == "read":
        assert os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0
    else:
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS
