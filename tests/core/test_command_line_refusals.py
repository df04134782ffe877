"""What the command line refuses: in a sentence, before the job, with nothing written or lost."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prolora.command_line import main

from .command_line_files import arguments, environment, run, write_files

USAGE, ERROR = 2, 1


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(write_files(tmp_path))
    (tmp_path / "folder").mkdir()
    (tmp_path / "page.safetensors").write_bytes(b"<html>")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    torch.save({"a": torch.ones(1)}, tmp_path / "pickle.safetensors")
    (tmp_path / "pairs.json").write_text("blocks.0: blocks.1")
    os.mkfifo(tmp_path / "pipe.safetensors")
    return tmp_path


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def refused(capsys, folder: Path, *command: str) -> tuple[int, str]:
    """The exit code of a command that changes nothing, and its sentence."""
    before = contents(folder)
    try:
        code = main(command)
    except SystemExit as exit:
        code = exit.code
    assert contents(folder) == before
    printed = capsys.readouterr()
    assert not printed.out
    first, *rest = printed.err.splitlines()
    assert first.startswith("error: ")
    assert not rest or (code == USAGE and len(rest) == 1 and rest[0].startswith("see: "))
    return code, first


# What is added to a transfer that would succeed (the last of two equal options counts).
TRANSFERS = [
    ("--source absent.safetensors", ERROR, "absent.safetensors does not exist"),
    ("--target absent.safetensors", ERROR, "absent.safetensors does not exist"),
    ("--target folder", ERROR, "folder"),
    ("--source page.safetensors", ERROR, "page.safetensors is not a readable safetensors file"),
    ("--source empty.safetensors", ERROR, "empty.safetensors is empty (0 bytes)"),
    ("--source pickle.safetensors", ERROR, "pickle.safetensors is a pickle"),
    ("--source style.safetensors", ERROR, "style.safetensors is a LoRA, not a checkpoint"),
    ("--target style.safetensors", ERROR, "style.safetensors is a LoRA, not a checkpoint"),
    ("--source b.safetensors", ERROR, "is named for both checkpoints"),
    ("--threshold 1.5", USAGE, "The threshold is 1.5; choose one from 0 to 1"),
    ("--threshold -0.1", USAGE, "The threshold is -0.1"),
    ("--threshold nan", USAGE, "The threshold is nan"),
    ("--threshold inf", USAGE, "The threshold is inf"),
    ("--threshold 0,5", USAGE, "'0,5' is no number"),
    ("--energy 0", USAGE, "The subspace energy is 0.0"),
    ("--energy 1", USAGE, "The subspace energy is 1.0"),
    ("--energy nan", USAGE, "The subspace energy is nan"),
    ("--unserved 2", USAGE, "The share for unserved blocks is 2.0"),
    ("--unserved nan", USAGE, "The share for unserved blocks is nan"),
    ("--rank -1", USAGE, "The rank is -1; choose 0 for the source's, or more"),
    ("--rank 1.5", USAGE, "'1.5' is no whole number"),
    ("--rank nan", USAGE, "'nan' is no whole number"),
    ("--rank 9", ERROR, "Choose a rank up to 8"),
    ("--mode all", USAGE, "no mode 'all'. Choose one of: auto, "),
    ("--mode calibrated", USAGE, "needs a recording, and models that run"),
    ("--dtype fp8", USAGE, "invalid choice: 'fp8'"),
    ("--naming mine", USAGE, "invalid choice: 'mine'"),
    ("--device nonsense", USAGE, "'nonsense' is no device. Choose auto, cpu, cuda"),
    ("--device meta", USAGE, "the device meta is not there, or cannot compute in float64"),
    ("--device hpu", USAGE, "the device hpu is not there"),
    ("--device cuda:99", USAGE, "the device cuda:99 is not there"),
    ("--pairs absent.json", ERROR, "The pairs could not be read"),
    ("--pairs pairs.json", ERROR, "pairs.json: this is no JSON"),
    ("-o folder", ERROR, "folder is a folder. Name a file in it"),
    ("-o new/", ERROR, "new/ is a folder. Name a file in it"),
    ("-o a.safetensors/x.safetensors", ERROR, "x.safetensors could not be saved in a.safetensors"),
    ("-o a", ERROR, "a.safetensors is named twice"),
    ("-o pipe", ERROR, "pipe.safetensors is no ordinary file"),
    (f"-o {'x' * 300}", ERROR, "File name too long"),
    ("-o /proc/x", ERROR, "x.safetensors could not be saved in /proc"),
    ("--report page.safetensors", ERROR, "exists. Choose another name, or overwrite it with --for"),
    ("--report out.safetensors", ERROR, "Choose another name"),
    ("--report folder", ERROR, "folder is a folder. Name a file in it"),
    ("--unknown", USAGE, "unrecognized arguments: --unknown"),
]
OTHERS = [
    ("", USAGE, "required: COMMAND"),
    ("move", USAGE, "invalid choice: 'move'"),
    ("transfer style.safetensors", USAGE, "--source, --target"),
    ("inspect absent.safetensors", ERROR, "absent.safetensors does not exist"),
    ("inspect folder", ERROR, "folder"),
    ("inspect style.safetensors --source style.safetensors", ERROR, "is a LoRA, not a checkpoint"),
    ("extract a.safetensors b.safetensors", USAGE, "required: -o/--out"),
    ("extract a.safetensors a.safetensors -o x", ERROR, "is named for both checkpoints"),
    ("extract a.safetensors style.safetensors -o x", ERROR, "is a LoRA, not a checkpoint"),
    ("extract a.safetensors b.safetensors -o x --energy 0", USAGE, "The energy is 0.0"),
    ("extract a.safetensors b.safetensors -o x --energy nan", USAGE, "The energy is nan"),
    ("extract a.safetensors b.safetensors -o x --rank -1", USAGE, "The rank is -1"),
    ("extract a.safetensors b.safetensors -o x --least 1", USAGE, "The least difference is 1.0"),
    ("extract a.safetensors b.safetensors -o page", ERROR, "page.safetensors exists"),
    ("similarity a.safetensors a.safetensors", ERROR, "is named for both checkpoints"),
    ("similarity a.safetensors style.safetensors", ERROR, "is a LoRA, not a checkpoint"),
    ("similarity a.safetensors b.safetensors --energy 1", USAGE, "subspace energy is 1.0"),
    ("similarity a.safetensors b.safetensors --picture map.jpg", ERROR, "not named like one"),
    ("similarity a.safetensors b.safetensors --table folder", ERROR, "folder is a folder"),
    ("similarity a.safetensors b.safetensors --table a.safetensors/x", ERROR, "could not be saved"),
    ("similarity a.safetensors b.safetensors --device nonsense", USAGE, "is no device"),
]


@pytest.mark.parametrize(("more", "code", "words"), TRANSFERS, ids=lambda value: str(value)[:40])
def test_a_transfer_is_refused(folder, capsys, more, code, words):
    found, sentence = refused(capsys, folder, *arguments(Path()), *more.split())
    assert words in sentence
    assert found == code


@pytest.mark.parametrize(("command", "code", "words"), OTHERS, ids=lambda value: str(value)[:40])
def test_a_command_is_refused(folder, capsys, command, code, words):
    found, sentence = refused(capsys, folder, *command.split())
    assert words in sentence
    assert found == code


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ("absent.safetensors", "absent.safetensors does not exist"),
        ("folder", "folder is a folder. Choose a file in it"),
        ("page.safetensors", "page.safetensors is not a readable safetensors file"),
        ("pickle.safetensors", "pickle.safetensors is a pickle"),
        ("a.safetensors", "It seems to be a checkpoint. Choose a LoRA file"),
    ],
)
def test_what_is_no_lora(folder, capsys, lora, words):
    command = arguments(Path())
    command[1] = lora
    code, sentence = refused(capsys, folder, *command)
    assert words in sentence
    assert code == ERROR


def test_none_of_these_would_be_refused_but_for_what_is_wrong(folder):
    assert main(arguments(Path())) == 0


def test_a_device_that_is_not_there(folder, capsys):
    if torch.cuda.is_available():
        pytest.skip("it is there")
    code, sentence = refused(capsys, folder, *arguments(Path()), "--device", "cuda")
    assert "the device cuda is not there" in sentence
    assert code == USAGE


# Files that exist


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_what_exists_is_overwritten_by_force_alone(folder, capsys, option):
    command = [*arguments(Path()), option, "there.safetensors"]
    there = folder / "there.safetensors"
    there.write_text("mine")
    code, sentence = refused(capsys, folder, *command)
    assert "there.safetensors exists. Choose another name, or overwrite it with --force" in sentence
    assert code == ERROR
    assert main([*command, "--force"]) == 0
    assert there.stat().st_size > len("mine")


@pytest.mark.parametrize("option", ["--picture", "--table", "--write-pairs"])
def test_similarity_overwrites_by_force_alone(folder, capsys, option):
    command = ["similarity", "a.safetensors", "b.safetensors", option, "there.png"]
    (folder / "there.png").write_text("mine")
    _, sentence = refused(capsys, folder, *command)
    assert "there.png exists" in sentence
    assert main([*command, "--force"]) == 0
    assert (folder / "there.png").stat().st_size > len("mine")


def test_force_never_overwrites_what_is_read(folder, capsys):
    for option in ("-o", "--report"):
        for name in ("style", "a", "b"):
            path = f"{name}.safetensors"
            code, sentence = refused(capsys, folder, *arguments(Path()), "--force", option, path)
            assert f"{path} is named twice" in sentence
            assert code == ERROR


# Permissions


@contextmanager
def nobody(folder: Path) -> Iterator[None]:
    """Root may do all, so the tests that run as root are nobody for a while."""
    is_root = os.geteuid() == 0
    if is_root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if is_root:
            os.seteuid(0)


@pytest.fixture
def shared_folder(monkeypatch) -> Iterator[Path]:
    """Which everybody may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = write_files(Path(name))
        folder.chmod(0o755)
        monkeypatch.chdir(folder)
        yield folder


@pytest.mark.parametrize("name", ["style", "a", "b"])
def test_a_file_that_may_not_be_read(shared_folder, capsys, name):
    for path in shared_folder.iterdir():
        path.chmod(0o644)
    (shared_folder / f"{name}.safetensors").chmod(0)
    with nobody(shared_folder):
        assert main([*arguments(Path()), "-o", "/dev/shm/never.safetensors"]) == ERROR
    assert f"{name}.safetensors cannot be read: " in capsys.readouterr().err


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_a_folder_that_may_not_be_written_to(shared_folder, capsys, option):
    (shared_folder / "mine").mkdir(mode=0o555)
    with nobody(shared_folder):
        assert main([*arguments(Path()), option, "mine/x.safetensors"]) == ERROR
    printed = capsys.readouterr()
    assert "x.safetensors could not be saved in mine: " in printed.err or option == "--report"
    assert "Permission denied" in printed.err
    assert not printed.out


# Names


NAMES = {"a": "Ein Modell ü", "b": "ターゲット", "style": "🎨 style; rm -rf", "out": "é/ø out"}


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_names_of_any_language(folder, encoding):
    command = arguments(folder)
    for name, new in NAMES.items():
        path = folder / f"{name}.safetensors"
        command = [str(folder / f"{new}.safetensors") if w == str(path) else w for w in command]
        if name != "out":
            path.rename(folder / f"{new}.safetensors")
    done = run(folder, *command, env=environment(PYTHONIOENCODING=encoding), text=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert b"2 of 2 modules transferred" in done.stdout
    assert b"style; rm -rf.safetensors" in done.stdout
    assert (folder / f"{NAMES['out']}.safetensors").is_file()


def test_a_name_without_its_ending_gets_it(folder, capsys):
    for name, want in (("moved", "moved.safetensors"), ("v1.5", "v1.5.safetensors")):
        assert main([*arguments(Path()), "-o", name]) == 0
        said = capsys.readouterr().out
        assert said.endswith(f"wrote {want} (.safetensors was added to the name)\n")
        assert (folder / want).is_file()
    assert main([*arguments(Path()), "-o", "B.SafeTensors"]) == 0
    assert capsys.readouterr().out.endswith("wrote B.SafeTensors\n")


def test_folders_are_made(folder):
    assert main([*arguments(Path()), "-o", "new/and/newer/x"]) == 0
    assert (folder / "new" / "and" / "newer" / "x.safetensors").is_file()


def test_a_strangers_file_does_not_steer_the_terminal(folder, capsys):
    evil = {"\x1b[2Jmodule.lora_down.weight": torch.ones(1, 8), "\x1b]0;x\x07": torch.ones(1)}
    save_file(evil | {"\x1b[2Jmodule.lora_up.weight": torch.ones(8, 1)}, "evil.safetensors",
              {"\x1b[31mred": "\x1b[31m"})  # fmt: skip
    for command in (["inspect", "evil.safetensors", "--metadata"],
                    ["inspect", "evil.safetensors", "--source", "a.safetensors"]):  # fmt: skip
        main(command)
        printed = capsys.readouterr()
        assert "module" in printed.out + printed.err
        assert not {"\x1b", "\x07"} & {*printed.out, *printed.err}
