"""What the commands do, and write."""

import csv
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from prolora import __version__
from prolora.adapters import read_adapter_file
from prolora.algebra.devices import can_decompose
from prolora.command_line import main, transfer
from prolora.command_line.arguments import device_named
from prolora.command_line.command import parser_of
from prolora.command_line.program import COMMANDS
from prolora.files import safetensors as files
from prolora.files.safetensors import read_safetensors
from prolora.pairing.block_pairs import read_pairs
from prolora.transfer.modes import MODES

from .checkpoints import SD3, SDXL
from .command_line_files import LORA, TARGET, arguments, run, write_files
from .dense_reference import dense_pair, dense_project, dense_similarity
from .small_models import delta, matrix
from .strategies import relative_error

QKV = "joint_blocks.{}.x_block.attn.qkv"


@pytest.fixture
def folder(tmp_path) -> Path:
    return write_files(tmp_path)


def test_transfer_as_a_program(folder):
    report = folder / "report.json"
    done = run(folder, *arguments(folder, "--report", str(report), "--dtype", "fp32"))
    assert (done.returncode, done.stderr) == (0, "")
    assert "2 of 2 modules transferred" in done.stdout
    assert f"wrote {folder / 'out.safetensors'}" in done.stdout
    rows = json.loads(report.read_text())["rows"]
    assert [row["status"] for row in rows] == ["moved", "moved"]
    metadata = read_safetensors(folder / "out.safetensors")[1]
    assert metadata["prolora_version"] == __version__
    assert metadata["prolora_source"] == "a.safetensors (SD3)"
    for i, moved in enumerate(read_adapter_file(folder / "out.safetensors").adapters):
        key = f"model.diffusion_model.{QKV.format(i)}.weight"
        subspaces = dense_pair(matrix(SD3[key]), matrix(TARGET[key]), 0.8)
        want = dense_project(delta(LORA[i]), *subspaces, "full")
        assert relative_error(delta(LORA[i]), want) > 0.1
        assert relative_error(delta(moved), want) < 1e-5


def test_inspect(folder, capsys):
    assert main(["inspect", str(folder / "style.safetensors")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "style.safetensors: LoRA, its names are those of SD3",
        "- written by kohya's sd-scripts or a tool of the same naming, it seems",
        "- 2 modules, rank 2",
    ]
    assert main(["inspect", str(folder / "style.safetensors"), "--metadata"]) == 0
    assert capsys.readouterr().out.splitlines()[3:] == [f"- ss_tag: {'x' * 197}..."]
    assert main(["inspect", str(folder / "a.safetensors")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "a.safetensors: a checkpoint, architecture SD3, 9 tensors",
        "- 8 of them can carry a LoRA",
    ]


def test_an_error_as_a_program(folder):
    (folder / "b.safetensors").write_bytes(b"<html>")
    done = run(folder, *arguments(folder))
    assert done.returncode == 1
    assert done.stderr.startswith("error: b.safetensors is not a readable safetensors file")
    assert "Traceback" not in done.stderr
    assert not (folder / "out.safetensors").exists()


@pytest.mark.parametrize(
    ("more", "dtype", "rank"),
    [
        ((), torch.float16, 2),
        (("--dtype", "bf16"), torch.bfloat16, 2),
        (("--dtype", "fp32", "--rank", "1", "--mode", "prolora"), torch.float32, 1),
        (("--energy", "0.5", "--device", "cpu"), torch.float16, 2),
    ],
)
def test_choices(folder, more, dtype, rank):
    assert main(arguments(folder, *more)) == 0
    file = read_adapter_file(folder / "out.safetensors")
    assert {adapter.up.dtype for adapter in file.adapters} == {dtype}
    assert {adapter.rank for adapter in file.adapters} == {rank}


def test_nothing_passes_the_threshold(folder, capsys):
    report = folder / "report.json"
    assert main(arguments(folder, "--threshold", "0.999", "--report", str(report))) == 1
    output = capsys.readouterr()
    assert "NOTHING WAS MOVED" in output.out
    assert output.err == f"error: {folder / 'out.safetensors'} was not written: there is nothing " \
        "in the result.\n"  # fmt: skip
    assert not (folder / "out.safetensors").exists()
    assert len(json.loads(report.read_text())["rows"]) == 2


@pytest.mark.parametrize("name", ["style", "a", "b"])
@pytest.mark.parametrize("option", ["-o", "--report"])
@pytest.mark.parametrize("link", [False, True])
def test_an_input_is_never_overwritten(folder, capsys, name, option, link):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    path = folder / f"{name}.safetensors"
    if link:
        path = folder / "other.safetensors"
        path.hardlink_to(folder / f"{name}.safetensors")
    assert main(arguments(folder, option, str(path))) == 1
    assert f"error: {path} is named twice" in capsys.readouterr().err
    assert all(file.read_bytes() == content for file, content in before.items())


def test_the_report_is_no_second_name_of_the_lora(folder, capsys):
    out = folder / "out.safetensors"
    assert main(arguments(folder, "--report", str(out))) == 1
    assert "Choose another name" in capsys.readouterr().err


def test_a_report_that_cannot_be_written_is_refused_before_the_job(folder, capsys):
    assert main(arguments(folder, "--report", str(folder / "a.safetensors" / "report.json"))) == 1
    printed = capsys.readouterr()
    assert "error: report.json could not be saved in " in printed.err
    assert not printed.out
    assert not (folder / "out.safetensors").exists()


def test_a_lora_for_another_architecture(folder, capsys):
    save_file(SDXL, folder / "a.safetensors")
    assert main(arguments(folder)) == 1
    error = capsys.readouterr().err
    assert "style.safetensors has the names of SD3, and none of its " in error
    assert "is in the source checkpoint a.safetensors (SDXL). Choose the checkpoint" in error


@pytest.mark.parametrize("moment", ["while moving", "while writing"])
def test_ctrl_c_leaves_nothing(folder, capsys, monkeypatch, moment):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    module, name = {
        "while moving": (transfer, "transfer_lora"),
        "while writing": (files, "as_bytes"),
    }[moment]
    monkeypatch.setattr(module, name, interrupt)
    before = set(folder.iterdir())
    assert main(arguments(folder, "--report", str(folder / "report.json"))) == 130
    assert capsys.readouterr().err.endswith("cancelled; no unfinished file is left\n")
    assert set(folder.iterdir()) == before


def compare_them(folder: Path, *more: str) -> int:
    return main(["similarity", str(folder / "a.safetensors"), str(folder / "b.safetensors"), *more])


def test_similarity_as_a_program(folder):
    done = run(
        folder, "similarity", "a.safetensors", "b.safetensors", *("--energy", "0.7"),
        *("--picture", "new/map.png", "--table", "table.csv", "--write-pairs", "pairs.json"),
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert "b.safetensors (SD3) compared with a.safetensors (SD3): 8 weights" in done.stdout
    assert "joint_blocks: median " in done.stdout
    assert Image.open(folder / "new" / "map.png").format == "PNG"
    blocks = ("joint_blocks.0", "joint_blocks.1")
    assert read_pairs(folder / "pairs.json") == dict(zip(blocks, blocks, strict=True))
    rows = list(csv.DictReader((folder / "table.csv").open(encoding="utf-8")))
    assert len(rows) == 8
    for row in rows:
        key = f"model.diffusion_model.{row['target']}.weight"
        want = dense_similarity(*dense_pair(matrix(SD3[key]), matrix(TARGET[key]), 0.7))
        assert (float(row["phi_left"]), float(row["phi_right"])) == pytest.approx(want, abs=1e-4)
    assert not list(folder.rglob("*.partial"))


def test_similarity_alone_writes_nothing(folder, capsys):
    before = set(folder.iterdir())
    assert compare_them(folder) == 0
    assert "corrected for chance" in capsys.readouterr().out
    assert set(folder.iterdir()) == before


@pytest.mark.parametrize("option", ["--picture", "--table", "--write-pairs"])
@pytest.mark.parametrize("name", ["a.safetensors", "b.safetensors", "x.png"])
def test_similarity_never_overwrites_what_is_named_twice(folder, capsys, option, name):
    before = {path: path.read_bytes() for path in folder.iterdir()}
    other = "--table" if option != "--table" else "--write-pairs"
    assert compare_them(folder, option, str(folder / name), other, str(folder / "x.png")) == 1
    assert "is named twice" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_both_commands_read_pairs_and_write_them_nowhere(folder, capsys):
    pairs = folder / "pairs.json"
    pairs.write_text('{"joint_blocks.0": "joint_blocks.1"}')
    before = pairs.read_bytes()
    found = folder / "found.json"
    assert compare_them(folder, "--pairs", str(pairs), "--write-pairs", str(found)) == 0
    assert read_pairs(found)["joint_blocks.0"] == "joint_blocks.1"
    assert f"wrote {found}" in capsys.readouterr().out
    report = folder / "report.json"
    assert main(arguments(folder, "--pairs", str(pairs), "--report", str(report))) == 0
    assert read_pairs(report)["joint_blocks.0"] == "joint_blocks.1"
    for command in (
        lambda: compare_them(folder, "--pairs", str(pairs), "--write-pairs", str(pairs)),
        lambda: main(arguments(folder, "--force", "--pairs", str(pairs), "--report", str(pairs))),
    ):
        assert command() == 1
        assert f"{pairs} is named twice" in capsys.readouterr().err
    assert pairs.read_bytes() == before


@pytest.mark.parametrize("place", ["a", "b"])
def test_a_lora_in_place_of_a_checkpoint(folder, capsys, place):
    shutil.copy(folder / "style.safetensors", folder / f"{place}.safetensors")
    table = folder / "table.csv"
    for command in (lambda: compare_them(folder, "--table", str(table)),
                    lambda: main(arguments(folder))):  # fmt: skip
        assert command() == 1
        output = capsys.readouterr()
        assert f"error: {place}.safetensors is a LoRA, not a checkpoint" in output.err
        assert not output.out
    assert not table.exists()


def test_similarity_of_models_with_nothing_in_common(folder, capsys):
    save_file(SDXL, folder / "a.safetensors")
    assert compare_them(folder, "--picture", str(folder / "map.png")) == 1
    error = capsys.readouterr().err
    assert "a.safetensors (SDXL) and b.safetensors (SD3) have no blocks in common" in error
    assert not (folder / "map.png").exists()


def test_a_picture_without_pillow(folder, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert compare_them(folder, "--picture", str(folder / "map.png")) == 1
    output = capsys.readouterr()
    assert "error: The picture needs Pillow, which is not installed: pip install" in output.err
    assert output.out == ""  # it is said before the job, not after
    assert compare_them(folder, "--table", str(folder / "table.csv")) == 0


# extract


def test_extract_as_a_program(folder):
    whole = ("--rank", "0", "--energy", "1", "--least", "0", "--dtype", "fp32")
    out = ("-o", "difference", "--report", "report.json", "--naming", "comfyui")
    done = run(folder, "extract", "a.safetensors", "b.safetensors", *out, *whole)
    assert (done.returncode, done.stderr) == (0, "")
    assert "b.safetensors (SD3) minus a.safetensors (SD3)" in done.stdout
    assert "wrote difference.safetensors (.safetensors was added to the name)" in done.stdout
    assert json.loads((folder / "report.json").read_text())["rows"]
    name = f"diffusion_model.{QKV.format(0)}"
    adapters = read_adapter_file(folder / "difference.safetensors").adapters
    (adapter,) = (adapter for adapter in adapters if adapter.name == name)
    key = f"model.diffusion_model.{QKV.format(0)}.weight"
    base, tuned = matrix(SD3[key]), matrix(TARGET[key])
    assert relative_error(base, tuned) > 0.1
    assert relative_error(base + delta(adapter), tuned) < 1e-5


# Help


def options_in(text: str) -> set[str]:
    return set(re.findall(r"(?<![\w-])--?[\w-]+", text))


@pytest.mark.parametrize("row", COMMANDS, ids=lambda row: row.name)
def test_help_has_an_example_that_the_parser_takes(row, capsys):
    with pytest.raises(SystemExit) as exit:
        main([row.name, "--help"])
    assert exit.value.code == 0
    said = capsys.readouterr().out
    assert row.example in said
    words = row.example.replace("\\\n", "").split()
    options = parser_of(COMMANDS).parse_args([row.name, *words])
    assert options.run is row.run
    assert options_in(row.example) <= options_in(said)


def test_the_help_of_transfer_says_what_each_mode_does(capsys):
    with pytest.raises(SystemExit):
        main(["transfer", "--help"])
    lines = capsys.readouterr().out.splitlines()
    assert [f"  {mode.name}: {mode.says}." for mode in MODES.values()] == lines[-len(MODES) :]


def test_the_program_alone_lists_its_commands(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert all(f"    {row.name} " in said and row.says in said for row in COMMANDS)


def test_auto_is_a_device_that_is_there():
    device = device_named("auto")
    assert can_decompose(device)
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_version(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"prolora {__version__}\n"
