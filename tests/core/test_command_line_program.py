"""The program as artists start it: stopped in the middle, in a pipe, with nobody to read."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from .command_line_files import arguments, command, environment, run, write_files
from .long_job import IN_A_HURRY, write_long_job

PROGRESS = re.compile(r"\d+ of 14 modules(, [\dhmins ]+ left)?: lora_unet_\w+\n")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_files(tmp_path)


@pytest.fixture(scope="module")
def long_job(tmp_path_factory) -> Path:
    """The same files, as large as a real model's."""
    folder = tmp_path_factory.mktemp("long")
    write_long_job(folder)
    return folder


def started(folder: Path) -> subprocess.Popen[str]:
    words = arguments(folder, "--report", str(folder / "report.json"), "--threshold", "0")
    return subprocess.Popen(
        [sys.executable, "-c", IN_A_HURRY, *words],
        env=environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def test_ctrl_c_in_the_middle_of_a_job_leaves_nothing(long_job):
    before = set(long_job.iterdir())
    with started(long_job) as program:
        assert program.stderr is not None
        first = program.stderr.readline()
        while first.startswith(("reading", "0 of ")):
            first = program.stderr.readline()
        assert PROGRESS.fullmatch(first)  # a line for a pipe, and not a bar
        program.send_signal(signal.SIGINT)
        out, error = program.communicate(timeout=300)
    assert (program.returncode, out) == (130, "")
    assert re.sub(PROGRESS, "", error) == "cancelled; no unfinished file is left\n"
    assert set(long_job.iterdir()) == before


def test_progress_whose_reader_is_gone_does_not_end_the_job(folder):
    """As `2>&1 | head -1` does."""
    program = [sys.executable, "-c", IN_A_HURRY, *arguments(folder)]
    choices = {"cwd": folder, "env": environment(), "timeout": 120, "check": False}
    told = subprocess.run([*program, "--force"], capture_output=True, text=True, **choices)
    assert "1 of 2 modules: lora_unet_" in told.stderr
    (folder / "out.safetensors").unlink()
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(program, stdout=write, stderr=write, **choices)
    os.close(write)
    assert done.returncode == 0
    assert (folder / "out.safetensors").stat().st_size > 0


@pytest.mark.parametrize("words", [["--help"], ["inspect", "style.safetensors"]])
def test_nobody_reads(folder, words):
    read, write = os.pipe()
    os.close(read)
    done = run(folder, *words, capture_output=False, stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_files_are_written_where_nobody_reads(folder):
    names = ("out.safetensors", "report.json", "map.png", "table.csv", "pairs.json")
    _, report, *others = names
    read, write = os.pipe()
    os.close(read)
    options = zip(("--picture", "--table", "--write-pairs"), others, strict=True)
    jobs = (
        arguments(folder, "--report", report),
        ["similarity", "a.safetensors", "b.safetensors", *(w for pair in options for w in pair)],
    )
    for words in jobs:
        done = run(folder, *words, capture_output=False, stdout=write, stderr=subprocess.PIPE)
        assert (done.returncode, done.stderr) == (0, "")
    os.close(write)
    assert all((folder / name).stat().st_size for name in names)


def test_no_standard_output_at_all(folder):
    """As a program without a console has it."""
    shell = " ".join((*(f"'{word}'" for word in command("inspect", "style.safetensors")), ">&-"))
    done = subprocess.run(
        ["sh", "-c", shell], cwd=folder, env=environment(), stderr=subprocess.PIPE, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_missing_library_is_named(folder):
    """`pip install .` alone does not bring torch along."""
    (folder / "without").mkdir()
    (folder / "without" / "torch.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')"
    )
    paths = os.pathsep.join((str(folder / "without"), environment()["PYTHONPATH"]))
    done = run(folder, "--help", env=environment(PYTHONPATH=paths))
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: torch is not installed. Use ComfyUI's own Python, or: pip"
    )
    assert len(done.stderr.splitlines()) == 1
