"""What the command line refuses: in a sentence, before the job, with nothing written or lost.

Most of it is in bad_input/commands.py, which test_bad_input.py runs; here is what needs more.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from prolora.command_line import main

from .bad_input.commands import ERROR, USAGE, contents, write_good_and_bad_files
from .command_line_files import arguments, environment, run, write_files


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    write_good_and_bad_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
