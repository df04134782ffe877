"""`prolora batch`: every row is moved once, whatever happens to the others or to the program."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prolora.adapters import lora_state_dict, read_adapter_file
from prolora.batch.chunk import chunks_of
from prolora.batch.engines import ENGINES
from prolora.batch.manifest import Choices, Row
from prolora.batch.table import COLUMNS
from prolora.command_line import main
from prolora.files.safetensors import read_safetensors
from prolora.provenance import hashes

from .command_line_files import command, environment, run
from .libraries_of_loras import (
    check_moved,
    lora_of,
    stamps,
    table_in,
    write_endless,
    write_library,
)
from .long_job import write_long_job
from .small_models import delta
from .strategies import relative_error

ERROR, CANCELLED = 1, 130
ALL = ("--mode", "full", "--threshold", "0.1", "--dtype", "fp32")
MODELS = ("--source", "a.safetensors", "--target", "b.safetensors")
RESULTS = Path("library results.csv")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    write_library(tmp_path, 4)
    monkeypatch.chdir(tmp_path)
    write_manifest("s0", "s1", "s2", "s3")
    return tmp_path


def write_manifest(*names: str, **columns: str) -> None:
    """Rows of LoRAs, each to moved/NAME, with columns of the same cell in every row."""
    lines = [",".join(("lora", "out", *columns))]
    lines += [",".join((f"{n}.safetensors", f"moved/{n}", *columns.values())) for n in names]
    Path("library.csv").write_text("\n".join(lines))


def batch(*more: str) -> int:
    return main(["batch", "library.csv", *MODELS, *ALL, *more])


def moved(name: str) -> Path:
    return Path("moved", f"{name}.safetensors")


def statuses() -> list[str]:
    return [row["status"] for row in table_in(RESULTS)]


def test_as_a_program(folder):
    Path("sub").mkdir()
    library = [
        {"lora": "../s0.safetensors", "out": "x", "threshold": 0.1, "mode": "full"},
        {"lora": "../s1.safetensors", "out": "y", "threshold": 0.1, "mode": "copy"},
        {"lora": "../s2.safetensors", "threshold": 1},
    ]
    Path("sub", "l.jsonl").write_text("\n".join(map(json.dumps, library)))
    done = run(folder, "batch", "sub/l.jsonl", *MODELS, "--out-dir", "there", "--dtype", "fp32")
    assert done.returncode == ERROR
    assert "3 LoRAs: 2 moved, 1 failed\n- " in done.stdout
    assert "wrote sub/l results.csv" in done.stdout
    assert "error: 1 of 3 LoRAs were not moved; sub/l results.csv says why." in done.stderr
    check_moved(folder / "sub" / "x.safetensors", 0)
    for one, other in zip(
        read_adapter_file(folder / "sub" / "y.safetensors").adapters, lora_of(1), strict=True
    ):
        assert relative_error(delta(one), delta(other)) < 1e-6
    assert not Path("there").exists()
    one, two, three = table_in(Path("sub", "l results.csv"))
    assert tuple(one) == COLUMNS
    assert (one["status"], one["moved"], one["copied"], one["skipped"]) == ("moved", "2", "0", "0")
    assert (two["status"], two["moved"], two["copied"]) == ("moved", "0", "2")
    assert float(one["similarity"]) > 0.1 and float(one["seconds"]) >= 0
    assert (one["lora"], one["out"]) == tuple(
        str(folder / name) for name in ("sub/../s0.safetensors", "sub/x.safetensors")
    )
    assert three["status"] == "failed" and "NOTHING WAS MOVED" in three["message"]


def test_a_folder_of_loras(folder, capsys):
    call = ["batch", "--loras", ".", "--pattern", "s?.safetensors", *MODELS, *ALL]
    assert main([*call, "--out-dir", "out"]) == 0
    for number in range(4):
        check_moved(Path("out", f"s{number} for b.safetensors"), number)
    assert [row["status"] for row in table_in(Path("out", "results.csv"))] == 4 * ["moved"]
    assert "4 LoRAs: 4 moved\nwrote out/results.csv" in capsys.readouterr().out


def test_what_is_done_is_not_done_again(folder, monkeypatch, capsys):
    assert batch() == 0
    before, table = stamps(Path("moved")), table_in(RESULTS)
    assert [row["status"] for row in table] == 4 * ["moved"]
    moved("s2").unlink()
    assert batch() == 0
    after = stamps(Path("moved"))
    assert {path for path in before if before[path] != after[path]} == {moved("s2")}
    assert statuses() == ["done", "done", "moved", "done"]
    for old, new in zip(table, table_in(RESULTS), strict=True):
        assert all(old[name] == new[name] for name in COLUMNS if name not in ("status", "seconds"))
    RESULTS.unlink()  # the files tell it by themselves
    assert batch() == 0
    assert statuses() == 4 * ["done"]
    assert [row["moved"] for row in table_in(RESULTS)] == 4 * ["2"]
    assert stamps(Path("moved")) == after


def test_stopped_at_once_nothing_is_forgotten(folder, monkeypatch):
    def interrupt(*rest):
        raise KeyboardInterrupt

    assert batch() == 0
    before = table_in(RESULTS)
    with monkeypatch.context() as patched:
        patched.setitem(ENGINES, "here", interrupt)
        assert batch() == CANCELLED
    assert statuses() == 4 * ["waiting"]
    assert batch() == 0
    assert table_in(RESULTS) == [{**row, "status": "done"} for row in before]


CHANGES = {
    "the LoRA": lambda: save_file(lora_state_dict(lora_of(7)), "s1.safetensors"),
    "its header": lambda: save_file(load_file("s1.safetensors"), "s1.safetensors", {"ss_a": "b"}),
    "the source": lambda: save_file(_shifted("a.safetensors"), "a.safetensors"),
    "the target": lambda: save_file(_shifted("b.safetensors"), "b.safetensors"),
    "the mode": lambda: write_manifest("s1", mode="prolora"),
    "the threshold": lambda: write_manifest("s1", threshold="0.2"),
    "the energy": lambda: write_manifest("s1", energy="0.7"),
    "the rank": lambda: write_manifest("s1", rank="1"),
    "the naming": lambda: write_manifest("s1", naming="comfyui"),
    "the dtype": lambda: write_manifest("s1", dtype="bf16"),
    "the share": lambda: write_manifest("s1", unserved="0.5"),
    "the pairs": lambda: write_manifest("s1", pairs="pairs.json"),
}


def _shifted(name: str) -> dict[str, torch.Tensor]:
    return {key: tensor + 1e-3 for key, tensor in load_file(name).items()}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_was_made_from_something_else_is_not_done(folder, capsys, change):
    Path("pairs.json").write_text("{}")
    write_manifest("s1")
    assert batch() == 0
    before = stamps(Path("moved"))
    change()
    assert batch() == ERROR
    assert "exists, and was not made from these files and settings" in capsys.readouterr().out
    assert stamps(Path("moved")) == before
    assert batch("--force") == 0
    assert statuses() == ["moved"]
    assert stamps(Path("moved")) != before
    after = stamps(Path("moved"))
    assert batch("--force") == 0  # what is done stays
    assert stamps(Path("moved")) == after and statuses() == ["done"]


def test_names_and_places_do_not_count(folder):
    assert batch() == 0
    before = stamps(Path("moved"))
    for name in ("s0", "a"):
        shutil.copy(f"{name}.safetensors", f"new_{name}.safetensors")
    Path("library.csv").write_text("lora,out\nnew_s0.safetensors,moved/s0\n")
    assert batch("--source", "new_a.safetensors") == 0
    assert statuses() == ["done"]
    assert stamps(Path("moved")) == before


def test_a_file_of_another_is_not_overwritten(folder, capsys):
    Path("moved").mkdir()
    moved("s1").write_text("mine")
    assert batch() == ERROR
    assert moved("s1").read_text() == "mine"
    assert statuses() == ["moved", "failed", "moved", "moved"]
    assert batch("--force") == 0
    check_moved(moved("s1"), 1)


def test_bad_files_cost_themselves_alone(folder, capsys):
    Path("page.safetensors").write_bytes(b"<html>")
    write_endless(Path("endless.safetensors"))
    Path("library.csv").write_text(
        "lora,target,pairs\ns0.safetensors,,\npage.safetensors,,\nabsent.safetensors,,\n"
        "endless.safetensors,,\ns1.safetensors,absent.safetensors,\ns2.safetensors,,absent.json\n"
        "b.safetensors,,\ns3.safetensors,a.safetensors,\ns3.safetensors,,\n"
    )
    assert batch("--out-dir", "moved") == ERROR
    assert statuses() == ["moved", *["failed"] * 7, "moved"]
    messages = [row["message"] for row in table_in(RESULTS)]
    for message, words in zip(
        messages,
        (
            *("", "page.safetensors is not a readable safetensors file"),
            *("absent.safetensors does not exist", "makes an update beyond all bounds"),
            *("absent.safetensors does not exist", "The pairs could not be read", "b.safetensors"),
            *("is named for both checkpoints", ""),
        ),
        strict=True,
    ):
        assert words in message
    check_moved(Path("moved", "s3 for b.safetensors"), 3)
    said = capsys.readouterr()
    assert "9 LoRAs: 2 moved, 7 failed" in said.out
    assert "error: 7 of 9 LoRAs were not moved; library results.csv says why." in said.err


def test_an_error_that_nobody_foresaw_costs_its_row(folder, monkeypatch, capsys):
    from prolora.batch import many

    def broken(file, *rest):
        if file.name == "s1.safetensors":
            raise RuntimeError("what is this")
        return resolve(file, *rest)

    resolve = many.resolve
    monkeypatch.setattr(many, "resolve", broken)
    assert batch() == ERROR
    assert statuses() == ["moved", "failed", "moved", "moved"]
    (message,) = (row["message"] for row in table_in(RESULTS) if row["message"])
    assert message.startswith("RuntimeError: what is this (test_batch.py, line ")


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_a_dry_run_says_all_and_writes_nothing(folder, capsys):
    assert batch() == 0
    moved("s1").unlink()
    save_file(lora_state_dict(lora_of(5)), "s2.safetensors")
    write_manifest("s0", "s1", "s2", "absent")
    before = contents(folder)
    capsys.readouterr()
    assert batch("--dry-run") == ERROR
    printed = capsys.readouterr()
    lines = printed.out.splitlines()
    assert lines[0] == f"{folder}/s0.safetensors: is done already"
    assert lines[1] == f"{folder}/s1.safetensors: would be moved"
    assert lines[2].startswith(f"{folder}/s2.safetensors: cannot be moved: {folder}/moved/s2.saf")
    assert lines[3].startswith(f"{folder}/absent.safetensors: cannot be moved: ")
    assert lines[4] == "4 LoRAs: 1 is done already, 1 would be moved, 2 cannot be moved"
    assert lines[5] == "they are 1 group of one pair of models and one choice of settings"
    assert "error: 2 of 4 LoRAs cannot be moved. Nothing was written." in printed.err
    assert contents(folder) == before


def test_a_large_checkpoint_is_read_for_its_digest_once(folder, monkeypatch):
    """Also by the next run; files that have just changed are not remembered."""
    for path in folder.glob("*.safetensors"):
        os.utime(path, (1e9, 1e9))
    time.sleep(2.1)
    read: list[str] = []
    sha256 = hashes.digests.file_sha256
    monkeypatch.setattr(
        "prolora.files.digests.file_sha256",
        lambda path, *rest: read.append(path.name) or sha256(path, *rest),
    )
    assert batch("--chunk", "1") == 0
    assert sorted(read) == [f"{name}.safetensors" for name in ("a", "b", "s0", "s1", "s2", "s3")]
    assert batch("--chunk", "1") == 0
    assert len(read) == 6 and statuses() == 4 * ["done"]


def test_chunks_share_what_is_kept_on_disk(folder):
    assert batch("--chunk", "2", "--cache", "bases") == 0
    assert list(Path("bases").iterdir())
    for number in range(4):
        check_moved(moved(f"s{number}"), number)
    kept = {path: path.stat().st_ino for path in Path("bases").iterdir()}
    shutil.rmtree("moved")
    assert batch("--chunk", "1", "--cache", "bases") == 0
    assert {path: path.stat().st_ino for path in Path("bases").iterdir()} == kept
    check_moved(moved("s3"), 3)


REFUSED = [
    (["batch", *MODELS], "MANIFEST"),
    (["batch", "library.csv", "--loras", ".", *MODELS], "not allowed with"),
    (["batch", "library.csv", *MODELS, "--chunk", "0"], "'0' is no whole number from 1 on"),
    (["batch", "library.csv", *MODELS, "--engine", "mpi"], "invalid choice: 'mpi'"),
    (["batch", "library.csv"], "library.csv, line 2: it names no source and target"),
    (["batch", "absent.csv", *MODELS], "The manifest could not be read"),
    (["batch", "library.csv", *MODELS, "--table", "library.csv"], "library.csv is named twice"),
    (["batch", "library.csv", *MODELS, "--table", "a.safetensors"], "is named twice"),
    (["batch", "library.csv", *MODELS, "--table", "note.txt"], "is no table of results"),
    (["batch", "library.csv", *MODELS, "--table", "/proc/x.csv"], "could not be saved in /proc"),
    (["batch", "library.csv", *MODELS, "--force", "--table", "s0.safetensors"], "is named twice"),
]


@pytest.mark.parametrize(("words", "sentence"), REFUSED, ids=lambda value: str(value)[-40:])
def test_what_is_refused_before_anything_is_written(folder, capsys, words, sentence):
    Path("note.txt").write_text("mine")
    before = contents(folder)
    try:
        code = main(words)
    except SystemExit as exit:
        code = exit.code
    assert code
    assert sentence in capsys.readouterr().err
    assert contents(folder) == before


def test_chunks(tmp_path):
    """Of one pair of models and one choice, in the order of the rows, each row once."""
    choices = Choices(), Choices(rank=2)
    rows = [
        Row("", tmp_path / f"{i}", tmp_path / "a", tmp_path / f"b{i % 2}", tmp_path / f"o{i}", c)
        for i, c in enumerate(choices * 8)
    ]
    chunks = chunks_of(rows, 3)
    assert sorted(len(chunk) for chunk in chunks) == [2, 2, 3, 3, 3, 3]
    assert {row for chunk in chunks for row in chunk} == set(rows)
    for chunk in chunks:
        assert len({(row.source, row.target, row.choices) for row in chunk}) == 1
        assert [rows.index(row) for row in chunk] == sorted(rows.index(row) for row in chunk)
    assert chunks[0][0] is rows[0]


def test_loras_that_are_large_together_are_moved_apart(tmp_path):
    for name in "abc":
        with (tmp_path / name).open("wb") as file:
            file.truncate(9 << 30)  # nothing of it lies on the disk
    rows = [Row("", tmp_path / n, tmp_path, tmp_path, tmp_path / f"o{n}") for n in "abc"]
    assert [len(chunk) for chunk in chunks_of(rows, 64)] == [1, 1, 1]


def test_killed_in_the_middle_and_started_again(tmp_path, monkeypatch):
    """No signal is harder than SIGKILL: the rows that are written stay, the others follow."""
    monkeypatch.chdir(tmp_path)
    names = [path.stem for path in write_long_job(tmp_path, loras=8, wide=512, blocks=6)]
    write_manifest(*names)
    words = ("batch", "library.csv", *MODELS, "--threshold", "0", "--chunk", "1")
    with subprocess.Popen(command(*words), env=environment(), stderr=subprocess.DEVNULL) as program:
        while not moved(names[2]).exists():
            assert program.poll() is None
            time.sleep(0.01)
        program.kill()
    written = stamps(Path("moved"))
    assert 3 <= len(written) < 8
    early = {row["status"] for row in table_in(RESULTS)}
    assert early == {"moved", "waiting"}
    done = run(tmp_path, *words)
    assert done.returncode == 0, done.stderr
    assert len(written) == statuses().count("done")
    assert statuses().count("moved") == 8 - len(written)
    after = stamps(Path("moved"))
    assert len(after) == 8 and written.items() <= after.items()
    for name in names:
        header = read_safetensors(moved(name))[1]
        assert header["prolora_lora"] == f"{name}.safetensors"
        assert len(header["prolora_made_from"]) == 64


def test_without_ray_it_is_said_what_to_install(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert batch("--engine", "ray") == ERROR
    assert "error: --engine ray needs Ray, which is not installed: pip install ray" in (
        capsys.readouterr().err
    )
    assert not Path("moved").exists()
