"""A thousand transfers in one process."""

import os
import tempfile
import threading
from itertools import product
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comfy_harness.hosts import PACK_ROOT
from prolora.adapters import read_adapter_file
from prolora.algebra.kept import NOTHING_KEPT, Forgetful, Kept
from prolora.command_line import main
from prolora.named_files import load_pair
from prolora.transfer.job import transfer_resolved
from prolora.transfer.modes import MODES
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings
from tests.host.family_files import FAMILIES, family_file
from tests.host.small_sd15 import SOURCE as SOURCE_FILE
from tests.host.small_sd15 import TARGET as TARGET_FILE
from tests.host.small_sd15 import write_small_sd15

from .held import growth, held_by

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


@pytest.fixture
def repeated(times, tell):
    """Repeats a job, and tells what the process holds then."""

    def run(tried: str, job) -> None:
        found = growth(os.getpid(), job, times(TIMES))
        assert found.memory < ENOUGH
        assert found.threads <= 0 and found.files <= 0 and found.children <= 0
        assert not [t for t in threading.enumerate() if t.name.startswith("prolora")]
        held, grown = held_by(os.getpid()).memory, found.memory
        words = (
            f"memory {grown / 2**20:+.1f} of {held >> 20} MB ({grown / held:+.1%}) from the second"
        )
        words += " fifth to the last; no thread, file or process more"
        tell("memory", tried, times(TIMES), words)

    return run


def test_by_the_command_line(tmp_path, temporary, capsys, repeated):
    """To a fine-tuned and a pruned model by turns: read, moved, written."""
    out = tmp_path / "moved.safetensors"

    def job(done: int) -> None:
        target = str(TARGETS[done % 2])
        words = ["transfer", str(LORA), "--source", str(SOURCE), "--target", target]
        assert main([*words, "-o", str(out), "--force", "--threshold", "0"]) == 0
        capsys.readouterr()

    repeated("Transfers by the command line, in one process", job)
    assert {path.name for path in tmp_path.iterdir()} == {out.name, temporary.name}
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("kept", [NOTHING_KEPT, Kept(8 << 20)], ids=["nothing kept", "little kept"])
def test_as_a_node_does_it(kept: Forgetful, repeated, request):
    """In inference mode; other settings each time, so that what is kept gives way to new."""

    def job(done: int) -> None:
        source, target = load_pair(SOURCE, TARGETS[done % 2])
        settings = TransferSettings(threshold=0.0, subspace_energy=0.5 + done / TIMES / 3)
        with torch.inference_mode():
            lora = resolve(read_adapter_file(LORA), source)
            assert transfer_resolved(lora, target, settings, kept=kept).adapters

    repeated(f"Transfers as a node does them, {request.node.callspec.id}", job)


@pytest.fixture(scope="module")
def families(tmp_path_factory) -> Path:
    """A file of each family, for models of one architecture."""
    models = tmp_path_factory.mktemp("models")
    for name in ("checkpoints", "loras", "output"):
        (models / name).mkdir()
    write_small_sd15(models)
    for family in FAMILIES:
        save_file(family_file(family), models / "loras" / f"{family}.safetensors")
    return models


def test_every_family_in_every_mode(families, repeated):
    modes = [name for name, mode in MODES.items() if not mode.needs_recording]
    pairs = list(product(FAMILIES, modes))
    checkpoints = families / "checkpoints"

    def job(done: int) -> None:
        family, mode = pairs[done % len(pairs)]
        source, target = load_pair(checkpoints / SOURCE_FILE, checkpoints / TARGET_FILE)
        settings = TransferSettings(mode, threshold=0.0, rank=4)
        with torch.inference_mode():
            lora = resolve(read_adapter_file(families / "loras" / f"{family}.safetensors"), source)
            assert transfer_resolved(lora, target, settings).contents

    count = f"{len(FAMILIES)} kinds of files in {len(modes)} modes"
    repeated(f"Transfers of every family in every mode, {count}", job)


def test_a_leak_would_be_seen():
    leak = []
    found = growth(os.getpid(), lambda done: leak.append(b"x" * (50 << 10)), TIMES)
    assert found.memory > ENOUGH
