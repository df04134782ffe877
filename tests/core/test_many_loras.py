"""`prolora transfer` of several LoRAs: as one at a time, but the models are looked at once."""

import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from prolora.command_line import main
from prolora.models.weights import SafetensorsWeights

from .command_line_files import ROOT, environment, run
from .libraries_of_loras import check_moved, write_endless, write_library
from .long_job import IN_A_HURRY, write_long_job

USAGE, ERROR, CANCELLED = 2, 1, 130


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    write_library(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def words(*loras: str, place: tuple[str, ...] = ("--out-dir", "new/moved")) -> list[str]:
    models = ("--source", "a.safetensors", "--target", "b.safetensors")
    return ["transfer", *(f"{name}.safetensors" for name in loras), *models, *place,
            "--mode", "full", "--threshold", "0.1", "--dtype", "fp32"]  # fmt: skip


def moved(name: str) -> Path:
    return Path("new", "moved", f"{name} for b.safetensors")


def test_several_as_a_program(folder):
    done = run(folder, *words("s0", "s1", "s2"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("2 of 2 modules transferred: 2 moved") == 3
    for number in range(3):
        assert f"wrote {moved(f's{number}')}" in done.stdout
        check_moved(moved(f"s{number}"), number)
    assert len(list(Path("new", "moved").iterdir())) == 3


def test_one_to_a_folder(folder, capsys):
    assert main([*words("s1"), "--report", "report.json"]) == 0
    check_moved(moved("s1"), 1)
    assert f"wrote {moved('s1')}\nwrote report.json" in capsys.readouterr().out


def test_each_weight_is_read_once_for_all(folder, monkeypatch):
    reads: Counter[str] = Counter()
    stored = SafetensorsWeights.stored

    def counted(self, key):
        reads[key] += 1
        return stored(self, key)

    monkeypatch.setattr(SafetensorsWeights, "stored", counted)
    assert main(words("s0")) == 0
    of_one = dict(reads)
    reads.clear()
    assert main([*words("s0", "s1", "s2"), "--force"]) == 0
    assert of_one and reads == of_one


@pytest.mark.parametrize("bad", ["page", "endless", "a"])
def test_a_bad_one_among_several(folder, capsys, bad):
    Path("page.safetensors").write_bytes(b"<html>")
    write_endless(Path("endless.safetensors"))
    assert main(words("s0", bad, "s2")) == ERROR
    printed = capsys.readouterr()
    assert f"NOT MOVED: {bad}.safetensors: " in printed.out
    assert printed.err.endswith("error: 1 of 3 LoRAs were not moved; the others were.\n")
    check_moved(moved("s0"), 0)
    check_moved(moved("s2"), 2)
    assert len(list(Path("new", "moved").iterdir())) == 2


def test_nothing_in_a_result(folder, capsys):
    assert main([*words("s0", "s1"), "--threshold", "0.999"]) == ERROR
    printed = capsys.readouterr()
    assert printed.out.count("NOTHING WAS MOVED") == 2
    assert "error: 2 of 2 LoRAs were not moved" in printed.err
    assert not Path("new").exists()


REFUSED = [
    (words("s0", "s1", place=("-o", "x")), "-o names one file, for 2 LoRAs. Name a folder with"),
    ([*words("s0", "s1"), "--report", "r.json"], "--report is for one LoRA. Leave it out"),
    (words("s0", "other/s0"), "would both be written to new/moved/s0 for b.safetensors"),
    (words("s0", "s0"), "would both be written to"),
    (words("s0", "s1", place=("--out-dir", "there")), "exists. Choose another name, or overwrite"),
    (words("s0", "s1", place=("--out-dir", "a.safetensors")), "could not be saved in a.safetenso"),
    (words("s0", "s1", place=("--out-dir", "/proc")), "could not be saved in /proc"),
    ([*words("s0", "s1"), "--source", "absent.safetensors"], "absent.safetensors does not exist"),
]


@pytest.mark.parametrize(("command", "sentence"), REFUSED, ids=lambda value: str(value)[-40:])
def test_what_is_refused_before_the_job(folder, capsys, command, sentence):
    Path("other").mkdir()
    Path("other", "s0.safetensors").write_bytes(Path("s0.safetensors").read_bytes())
    Path("there").mkdir()
    Path("there", "s1 for b.safetensors").write_text("mine")
    before = {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")}
    assert main(command) == ERROR
    printed = capsys.readouterr()
    assert sentence in printed.err and not printed.out
    assert {path: path.is_file() and path.read_bytes() for path in folder.rglob("*")} == before


def test_one_of_two_places_is_named(folder, capsys):
    for place in ((), ("-o", "x", "--out-dir", "y")):
        with pytest.raises(SystemExit) as exit:
            main(words("s0", place=place))
        assert exit.value.code == USAGE
        assert "-o/--out" in capsys.readouterr().err


def test_ctrl_c_in_the_middle_leaves_nothing(tmp_path):
    loras = write_long_job(tmp_path, loras=2)
    before = set(tmp_path.iterdir())
    models = ("--source", tmp_path / "a.safetensors", "--target", tmp_path / "b.safetensors")
    command = ["transfer", *loras, *models, "--out-dir", tmp_path / "new", "--threshold", "0"]
    program = subprocess.Popen(
        [sys.executable, "-c", IN_A_HURRY, *map(str, command)],
        cwd=ROOT,
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with program:
        assert program.stderr is not None
        line = program.stderr.readline()
        while line.startswith(("reading", "0 of ")):
            line = program.stderr.readline()
        assert re.match(r"\d+ of 28 modules(, [\dhmins ]+ left)?: lora_unet_", line)
        program.send_signal(signal.SIGINT)
        out, error = program.communicate(timeout=300)
    assert (program.returncode, out) == (CANCELLED, "")
    assert error.endswith("cancelled; no unfinished file is left\n")
    assert set(tmp_path.iterdir()) == before
