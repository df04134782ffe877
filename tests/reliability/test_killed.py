"""Killed at random moments: the old file or the new one, and nothing beside it in the end."""

import csv
import itertools
import random
import re
from collections import Counter
from hashlib import sha256
from pathlib import Path

import torch

from prolora.batch.table import COLUMNS
from prolora.command_line import main
from prolora.files.atomic_write import write_text
from prolora.files.safetensors import read_safetensors, write_safetensors
from prolora.provenance.moved import DATA_HASH, KEPT
from prolora.provenance.written import write_lora
from tests.core.libraries_of_loras import write_library

from .children import begun, length_of

SAVES, TRANSFERS, BATCHES = 1000, 200, 50
NUMBERS = 1 << 16  # of each tensor that is saved
LORAS = 4
TEMPORARY = re.compile(r"\.prolora-[0-9a-f]{32}\.partial")


def left(folder: Path, *files: Path) -> int:
    """How many temporary files there are, beside those files and nothing else."""
    others = {path.name for path in folder.iterdir()} - {path.name for path in files}
    assert all(TEMPORARY.fullmatch(name) for name in others), others
    return len(others)


def generation(path: Path) -> int:
    """Which save a file is of, all of which it is."""
    tensors, header = read_safetensors(path)
    (number,) = {float(value) for tensor in tensors.values() for value in tensor.unique()}
    assert header["generation"] == f"{number:.0f}" and len(tensors) == 3
    return int(number)


def save(path: Path, number: int) -> None:
    """As Save Transferred LoRA does: every second with hashes, for which it is written twice."""
    tensors = {f"m.{name}": torch.full((NUMBERS,), float(number)) for name in ("a", "b", "c")}
    header = {"generation": str(number)}
    if number % 2:
        write_safetensors(tensors, path, header)
    else:
        write_lora(tensors, path, {**header, f"{KEPT}{DATA_HASH}": "0" * 64})


def test_saves(times, tell, tmp_path):
    path, moments = tmp_path / "lora.safetensors", random.Random(1)
    save(path, 1)
    length = length_of(lambda: [save(path, number) for number in range(2, 12)]) / 10
    count, began, stray, most = times(SAVES), generation(path), 0, 0
    found: Counter[str] = Counter()
    for _ in range(count):

        def again(first: int = began + 1) -> None:
            for number in itertools.count(first):
                save(path, number)

        assert not begun(again).killed_after(moments.uniform(0, 3 * length))
        now = generation(path)
        found["old" if now == began else "new"] += 1
        begins, began = began, now
        assert now >= begins
        many = left(tmp_path, path)
        stray, most = stray + bool(many), max(most, many)
        assert many <= 1  # the one before has gone with the next save
    write_text(tmp_path / "next.txt", "the next save")
    assert left(tmp_path, path, tmp_path / "next.txt") == 0
    assert found["new"] and stray  # else the moments were badly chosen
    tell(
        "faults",
        "kill -9 while one file is saved over and over",
        count,
        f"{count:,} whole files ({found['old']} as before the run, {found['new']} of a save in "
        f"it); {stray} left a temporary file, which the next save into the folder removed",
    )


def test_transfers(times, tell, tmp_path):
    """Of two LoRAs by turns, over one file; each process is a fork that has torch loaded."""
    (tmp_path / "models").mkdir()
    loras = write_library(tmp_path / "models", 2)
    out = tmp_path / "out" / "moved.safetensors"

    def transfer(number: int) -> None:
        models = tmp_path / "models"
        pair = "--source", str(models / "a.safetensors"), "--target", str(models / "b.safetensors")
        words = ["transfer", str(loras[number]), *pair, "-o", str(out), "--force"]
        assert main([*words, "--threshold", "0"]) == 0

    def digest() -> str:
        tensors, _ = read_safetensors(out)
        return sha256(
            b"".join(tensors[key].numpy().tobytes() for key in sorted(tensors))
        ).hexdigest()

    digests = []
    for number in (0, 1):
        length = length_of(lambda number=number: transfer(number))
        digests.append(digest())
    assert digests[0] != digests[1]
    count, moments, holds, stray = times(TRANSFERS), random.Random(2), 1, 0
    found: Counter[str] = Counter()
    for _ in range(count):
        other = 1 - holds
        # Half of them while it writes, which is a small part of the whole.
        first = moments.choice((0.0, 0.7)) * length
        done = begun(lambda other=other: transfer(other)).killed_after(
            moments.uniform(first, 1.1 * length)
        )
        now = digests.index(digest())
        assert now == other or not done
        found["old" if now == holds else "new"] += 1
        holds = now
        many = left(out.parent, out)
        stray += bool(many)
        assert many <= 1
    transfer(0)
    assert left(out.parent, out) == 0 and digest() == digests[0]
    assert found["old"] and found["new"]
    tell(
        "faults",
        "kill -9 during a transfer on the command line, over an older file",
        count,
        f"{found['old']} times the old file, {found['new']} times the new one, both whole; {stray} "
        "left a temporary file, which the next transfer into the folder removed. Each was a fork "
        "of a process that had torch loaded, with models of two blocks",
    )


def rows(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        assert tuple(reader.fieldnames or ()) == COLUMNS
        return list(reader)


def test_batches(times, tell, tmp_path):
    """A library, killed and run again until it is done; the last run finds all of it."""
    models = tmp_path / "models"
    models.mkdir()
    loras = write_library(models, LORAS)

    def batch(out: Path) -> None:
        pair = "--source", str(models / "a.safetensors"), "--target", str(models / "b.safetensors")
        words = ["batch", "--loras", str(models), "--pattern", "s[0-9].safetensors", *pair]
        cache = "--cache", str(out / "cache"), "--chunk", "2"
        assert main([*words, "--out-dir", str(out), "--threshold", "0", *cache]) == 0

    def tensors(out: Path) -> list[dict[str, torch.Tensor]]:
        files = sorted(out.glob("s*.safetensors"))
        assert len(files) == LORAS
        return [read_safetensors(path)[0] for path in files]

    length = length_of(lambda: batch(tmp_path / "whole"))
    want = tensors(tmp_path / "whole")
    count, moments, kept, stray, killed = times(BATCHES), random.Random(3), 0, 0, 0
    for number in range(count):
        out = tmp_path / str(number)
        killed += not begun(lambda out=out: batch(out)).killed_after(moments.uniform(0, length))
        written = {path: path.stat().st_mtime_ns for path in out.glob("s*.safetensors")}
        for path in written:  # each is whole
            read_safetensors(path)
        if (out / "results.csv").exists():
            assert len(rows(out / "results.csv")) == LORAS
        partial = [path for path in out.rglob(".*") if path.is_file()]
        assert all(TEMPORARY.fullmatch(path.name) for path in partial)
        stray, kept = stray + bool(partial), kept + len(written)
        assert begun(lambda out=out: batch(out)).ended() == 0
        for path, at in written.items():  # and is not made again
            assert path.stat().st_mtime_ns == at
        assert {row["status"] for row in rows(out / "results.csv")} <= {"moved", "done"}
        for ours, theirs in zip(tensors(out), want, strict=True):
            assert all(torch.equal(ours[key], theirs[key]) for key in ours | theirs)
        assert not [path for path in out.rglob(".*") if path.is_file()]
    assert killed and stray + kept
    tell(
        "faults",
        f"kill -9 during a batch of {len(loras)} LoRAs with a cache of bases, then the same again",
        count,
        f"{killed} were killed; {kept} of {count * LORAS} LoRAs had been written, all whole and "
        f"not made again; the table was whole; {stray} left a temporary file, none of which was "
        "there after the second run. Forks, as above",
    )
