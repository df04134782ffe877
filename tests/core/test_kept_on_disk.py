"""Bases kept on a disk: the same bits, made again where they are damaged, within their limit."""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from prolora.algebra.kept import NOTHING_KEPT
from prolora.files.kept_on_disk import KeptOnDisk
from prolora.files.safetensors import read_safetensors
from prolora.transfer import maps
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .command_line_files import arguments, environment, run, write_files
from .small_models import file_of, model_of, random_lora
from .small_transfer import DRIFTED, FILE, LOW, WEIGHTS

LIMIT = 1 << 30
MODULES = len(WEIGHTS)


def moved(kept=NOTHING_KEPT, settings=LOW, source=WEIGHTS, target=DRIFTED, file=FILE):
    return transfer_lora(file, model_of("A", source), model_of("B", target), settings, kept=kept)


def assert_equal(one, other):
    assert one.report.rows == other.report.rows
    for ours, theirs in zip(one.adapters, other.adapters, strict=True):
        assert torch.equal(ours.up, theirs.up)
        assert torch.equal(ours.down, theirs.down)


def refuse(*arguments):
    raise AssertionError("it was computed again")


def entries(folder: Path) -> list[Path]:
    return sorted(folder.iterdir())


@pytest.mark.parametrize("mode", ["full", "prolora", "subspace", "cross_width"])
def test_another_process_finds_the_same_bits(tmp_path, monkeypatch, mode):
    settings = TransferSettings(mode, threshold=0.1)
    afresh = moved(settings=settings)
    assert_equal(moved(KeptOnDisk(tmp_path, LIMIT), settings), afresh)
    assert len(entries(tmp_path)) == MODULES
    monkeypatch.setattr(maps, "common_subspaces_of_many", refuse)
    assert_equal(moved(KeptOnDisk(tmp_path, LIMIT), settings), afresh)


def test_another_lora_finds_them_too(tmp_path, monkeypatch):
    other = file_of(*(random_lora(name, w.shape, 3, seed=9) for name, w in WEIGHTS.items()))
    afresh = moved(file=other)
    moved(KeptOnDisk(tmp_path, LIMIT))
    monkeypatch.setattr(maps, "common_subspaces_of_many", refuse)
    assert_equal(moved(KeptOnDisk(tmp_path, LIMIT), file=other), afresh)
    assert len(entries(tmp_path)) == MODULES  # nothing of a LoRA is kept


def test_a_weight_that_was_changed_is_another(tmp_path):
    moved(KeptOnDisk(tmp_path, LIMIT))
    target = {name: weight.clone() for name, weight in DRIFTED.items()}
    target["linear"][0, 0] += 0.25
    after = moved(KeptOnDisk(tmp_path, LIMIT), target=target)
    assert not torch.equal(after.adapters[0].up, moved().adapters[0].up)
    assert_equal(after, moved(target=target))
    assert len(entries(tmp_path)) == MODULES + 1


def test_another_energy_is_another(tmp_path):
    moved(KeptOnDisk(tmp_path, LIMIT))
    settings = TransferSettings("full", threshold=0.1, subspace_energy=0.7)
    assert_equal(moved(KeptOnDisk(tmp_path, LIMIT), settings), moved(settings=settings))
    assert len(entries(tmp_path)) == 2 * MODULES


DAMAGE = {
    "a bit": lambda whole: whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:],
    "cut": lambda whole: whole[: len(whole) // 2],
    "empty": lambda whole: b"",
    "another file": lambda whole: b"not what it seems" * 20,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_entry_is_made_again(tmp_path, damage):
    moved(KeptOnDisk(tmp_path, LIMIT))
    whole = {path: path.read_bytes() for path in entries(tmp_path)}
    for path, content in whole.items():
        path.write_bytes(damage(content))
    assert_equal(moved(KeptOnDisk(tmp_path, LIMIT)), moved())
    assert {path: path.read_bytes() for path in entries(tmp_path)} == whole


def test_two_writers(tmp_path):
    wanted = moved()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: moved(KeptOnDisk(tmp_path, LIMIT)), range(8)))
    for result in found:
        assert_equal(result, wanted)
    assert len(entries(tmp_path)) == MODULES  # no temporary file either


def test_the_oldest_go_first(tmp_path):
    moved(KeptOnDisk(tmp_path, LIMIT))
    sizes = {path: path.stat().st_size for path in entries(tmp_path)}
    for age, path in enumerate(sizes):
        os.utime(path, (10**9 - age, 10**9 - age))
    (tmp_path / "mine.safetensors").write_bytes(b"of somebody else")
    left_over = tmp_path / ".prolora-0.partial"  # of a program that was killed
    left_over.touch()
    os.utime(left_over, (10**9, 10**9))
    limit = sum(sizes.values())
    other = {name: weight * 2 for name, weight in DRIFTED.items()}
    first = dict(list(other.items())[:1])
    part, source = file_of(FILE.adapters[0]), dict(list(WEIGHTS.items())[:1])
    moved(KeptOnDisk(tmp_path, limit), source=source, target=first, file=part)
    left = [path for path in sizes if path.exists()]
    assert left == list(sizes)[: len(left)]
    assert 0 < len(left) < len(sizes)
    ours = [path for path in entries(tmp_path) if path.name != "mine.safetensors"]
    assert len(ours) == len(left) + 1
    assert sum(path.stat().st_size for path in ours) <= limit
    assert (tmp_path / "mine.safetensors").exists()
    assert not left_over.exists()


def test_what_cannot_be_written_is_used_and_told(tmp_path):
    (tmp_path / "file").write_text("no folder")
    found = moved(KeptOnDisk(tmp_path / "file", LIMIT))
    assert_equal(found, moved())
    assert "Not all bases are kept" in found.report.notes[-1]


def test_on_the_command_line(tmp_path):
    """In a process of its own each time, with other seeds of Python's hashes."""
    write_files(tmp_path)
    kept = []
    for seed in ("1", "2"):
        cache = "--cache", "cache", "--cache-gb", "1"
        job = arguments(tmp_path, *cache, out=f"{seed}.safetensors")
        done = run(tmp_path, *job, env=environment(PYTHONHASHSEED=seed))
        assert done.returncode == 0, done.stderr
        kept.append({path.name: path.read_bytes() for path in entries(tmp_path / "cache")})
    assert kept[0] == kept[1] != {}
    ours, theirs = (read_safetensors(tmp_path / f"{seed}.safetensors")[0] for seed in ("1", "2"))
    assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
