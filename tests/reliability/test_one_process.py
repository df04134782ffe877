"""A thousand transfers in one process."""

import os
import tempfile
import threading
from pathlib import Path

import pytest
import torch

from comfy_harness.hosts import PACK_ROOT
from prolora.adapters import read_adapter_file
from prolora.algebra.kept import NOTHING_KEPT, Forgetful, Kept
from prolora.command_line import main
from prolora.command_line.files import load_pair
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from .held import growth

MODELS = PACK_ROOT / "demo" / "models"
LORA, SOURCE = MODELS / "emoji_style_lora.safetensors", MODELS / "emoji_a.safetensors"
TARGETS = (MODELS / "emoji_b.safetensors", MODELS / "emoji_a_pruned.safetensors")
TIMES = 1000
ENOUGH = 12 << 20  # bytes: the memory goes up and down by this much; 12 kB a transfer is seen


@pytest.fixture(autouse=True)
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def temporary(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def check(found) -> None:
    assert found.memory < ENOUGH
    assert found.threads <= 0 and found.files <= 0 and found.children <= 0
    assert not [t for t in threading.enumerate() if t.name.startswith("prolora")]


def test_by_the_command_line(tmp_path, temporary, capsys):
    """To a fine-tuned and a pruned model by turns: read, moved, written."""
    out = tmp_path / "moved.safetensors"

    def job(done: int) -> None:
        target = str(TARGETS[done % 2])
        words = ["transfer", str(LORA), "--source", str(SOURCE), "--target", target]
        assert main([*words, "-o", str(out), "--force", "--threshold", "0"]) == 0
        capsys.readouterr()

    check(growth(os.getpid(), job, TIMES))
    assert {path.name for path in tmp_path.iterdir()} == {out.name, temporary.name}
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("kept", [NOTHING_KEPT, Kept(8 << 20)], ids=["nothing kept", "little kept"])
def test_as_a_node_does_it(kept: Forgetful):
    """In inference mode; other settings each time, so that what is kept gives way to new."""

    def job(done: int) -> None:
        source, target = load_pair(SOURCE, TARGETS[done % 2])
        settings = TransferSettings(threshold=0.0, subspace_energy=0.5 + done / TIMES / 3)
        with torch.inference_mode():
            lora = resolve(read_adapter_file(LORA), source)
            assert transfer_resolved(lora, target, settings, kept=kept).adapters

    check(growth(os.getpid(), job, TIMES))


def test_a_leak_would_be_seen():
    leak = []
    found = growth(os.getpid(), lambda done: leak.append(b"x" * (50 << 10)), TIMES)
    assert found.memory > ENOUGH
