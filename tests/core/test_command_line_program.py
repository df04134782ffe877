"""The program as artists start it: stopped in the middle, in a pipe, with nobody to read."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prolora.adapters import lora_state_dict

from .command_line_files import arguments, command, environment, run, write_files
from .small_models import random_lora

WIDE, BLOCKS = 1536, 14  # long enough for each block that a signal comes in the middle
PROGRESS = re.compile(r"\d+ of 14 modules(, [\dhmins ]+ left)?: lora_unet_\w+\n")


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_files(tmp_path)


@pytest.fixture(scope="module")
def long_job(tmp_path_factory) -> Path:
    """The same files, as large as a real model's."""
    folder = tmp_path_factory.mktemp("long")
    generator = torch.Generator().manual_seed(0)
    for name in ("a", "b"):
        tensors = {
            f"model.diffusion_model.joint_blocks.{i}.x_block.attn.proj.weight": torch.randn(
                WIDE, WIDE, generator=generator
            ).half()
            for i in range(BLOCKS)
        }
        save_file(tensors, folder / f"{name}.safetensors")
    lora = [
        random_lora(f"lora_unet_joint_blocks_{i}_x_block_attn_proj", (WIDE, WIDE), rank=1)
        for i in range(BLOCKS)
    ]
    save_file(lora_state_dict(lora), folder / "style.safetensors")
    return folder


IN_A_HURRY = """
import sys
from prolora.command_line import main
from prolora.command_line import terminal
terminal._SECONDS = 0  # between two lines of progress
sys.exit(main())
"""


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
