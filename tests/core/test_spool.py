"""Tensors on the disk: the same bits, no name in the folder, no memory for long."""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prolora.algebra.kept import outside_heap
from prolora.algebra.precision import as_bytes
from prolora.files import spool as spools
from prolora.files.spool import Spool

KINDS = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.uint8)
SHAPES = st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=20)
PART, PARTS = 8 << 20, 50  # 400 MB


@settings(deadline=None)
@given(SHAPES, st.sampled_from(KINDS), st.integers(0, 2**32))
def test_every_tensor_comes_back_bit_by_bit(tmp_path_factory, shapes, kind, seed):
    folder = tmp_path_factory.mktemp("spool")
    generator = torch.Generator().manual_seed(seed)
    tensors = [
        torch.randint(0, 256, (*shape, kind.itemsize), dtype=torch.uint8, generator=generator)
        .view(kind)
        .reshape(shape)
        for shape in shapes
    ]
    spool = Spool(folder)
    held = [spool.hold(tensor) for tensor in tensors]
    spool.give_pages_back()
    for tensor, kept in zip(tensors, held, strict=True):
        assert (kept.dtype, kept.shape) == (tensor.dtype, tensor.shape)
        assert torch.equal(as_bytes(kept), as_bytes(tensor))
        assert not tensor.numel() or kept.data_ptr() != tensor.data_ptr()
    assert not list(folder.iterdir())


@pytest.mark.parametrize("transposed", [False, True])
def test_tensors_of_any_size_and_layout(tmp_path, monkeypatch, transposed):
    monkeypatch.setattr(spools, "_FIRST", 1 << 12)
    monkeypatch.setattr(spools, "_LARGEST", 1 << 14)
    spool = Spool(tmp_path / "not" / "there")
    tensors = [torch.randn(side, side + 1) for side in (3, 20, 200, 40, 64, 90, 1)]
    tensors = [tensor.T if transposed else tensor for tensor in tensors]
    held = [spool.hold(tensor) for tensor in tensors]
    assert all(map(torch.equal, held, tensors))
    assert all(tensor.is_contiguous() for tensor in held)
    assert not list(tmp_path.iterdir())


def memory() -> int:
    """Bytes that this process has in memory."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="asks Linux for memory")


@linux
def test_what_is_held_takes_no_memory(tmp_path):
    part = torch.randint(0, 256, (PART,), dtype=torch.uint8)
    for hold, least, most in (
        (outside_heap, 0.9 * PARTS * PART, 2 * PARTS * PART),
        (Spool(tmp_path).hold, 0, 0.4 * PARTS * PART),
    ):
        before = memory()
        held = [hold(part) for _ in range(PARTS)]
        assert least <= memory() - before < most
        assert torch.equal(held[7], part)
        del held


@linux
def test_the_file_goes_with_its_last_tensor(tmp_path):
    """It has no name, so its room comes back when nobody has it open."""

    def opened() -> list[str]:
        links = (path.readlink() for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
        return [name for name in map(str, links) if name.startswith(str(tmp_path))]

    held = [Spool(tmp_path).hold(torch.ones(PART, dtype=torch.uint8)) for _ in range(3)]
    assert len(opened()) == 3
    held.pop()
    assert len(opened()) == 2
    held.clear()
    assert not opened()


@linux
def test_pages_of_what_was_read_go_back_with_those_of_what_is_made(tmp_path):
    read = Spool(tmp_path)
    made, other = Spool(tmp_path, beside=read), Spool(tmp_path)
    part = torch.arange(PART // 8)
    held = [spool.hold(part) for spool in (read, made, other) for _ in range(5)]
    for spool in (read, made, other):
        spool.give_pages_back()
    start = memory()
    want = sum(tensor.sum() for tensor in held)
    assert memory() - start > 0.9 * 15 * PART
    made.give_pages_back()
    assert 0.2 * 15 * PART < memory() - start < 0.4 * 15 * PART
    assert sum(tensor.sum() for tensor in held) == want


FULL = """
import resource, sys
import torch
from pathlib import Path
from prolora.errors import ProLoRAError
from prolora.files.spool import Spool
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    Spool(Path(sys.argv[1])).hold(torch.ones(1 << 20))
except ProLoRAError as error:
    print(error)
"""


def test_a_full_disk_is_an_error_and_not_the_end(tmp_path):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", FULL, tmp_path],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"{tmp_path} has no room for what is being moved: ")
    assert not list(tmp_path.iterdir())
