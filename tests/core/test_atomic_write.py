"""What a killed program left is removed by the next that writes there, and nothing else is."""

import errno
import io
import json
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from prolora.errors import ProLoRAError
from prolora.files import atomic_write as module
from prolora.files.atomic_write import atomic_write, unwritable, write_text
from prolora.files.safetensors import save_safetensors, write_safetensors
from prolora.files.stored import _DTYPES

LEFT = ".prolora-0123456789abcdef0123456789abcdef.partial"
forks = pytest.mark.skipif(sys.platform == "win32", reason="forks a process")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def writing(path: Path) -> int:
    """A process that has written half of a file, and waits."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        with atomic_write(path) as file:
            file.write(b"half")
            file.flush()
            os.write(writer, b"!")
            signal.pause()
    os.read(reader, 1)
    os.close(reader)
    os.close(writer)
    return child


@forks
def test_what_a_killed_program_left(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    child = writing(path)
    assert len(names(tmp_path)) == 2
    write_text(tmp_path / "b.txt", "another")  # while it lives
    assert len(names(tmp_path)) == 3
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(names(tmp_path)) == 3
    write_text(tmp_path / "b.txt", "another")
    assert names(tmp_path) == {"a.txt", "b.txt"}
    assert path.read_text() == "old"


@forks
def test_another_that_lives_is_let_be_and_writes_to_its_end(tmp_path):
    with atomic_write(tmp_path / "a.txt") as file:
        file.write(b"mine")
        file.flush()
        child = os.fork()
        if child == 0:
            write_text(tmp_path / "b.txt", "theirs")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    assert names(tmp_path) == {"a.txt", "b.txt"}
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_files_of_the_users_stay(tmp_path):
    (tmp_path / LEFT).touch()
    theirs = {
        ".prolora-notes.partial",
        f"{LEFT}.txt",
        f"x{LEFT}",
        LEFT.upper(),
        ".prolora-0123456789abcdef0123456789abcdeg.partial",
    }
    for name in theirs:
        (tmp_path / name).touch()
    folder, link = LEFT.replace("0", "1"), LEFT.replace("0", "2")
    (tmp_path / folder).mkdir()
    (tmp_path / link).symlink_to(tmp_path / "x.txt")
    write_text(tmp_path / "x.txt", "new")
    assert names(tmp_path) == {*theirs, "x.txt", folder, link}


def test_where_there_are_no_locks_it_goes_after_an_hour(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_lock", lambda file: None)
    (tmp_path / LEFT).touch()
    write_text(tmp_path / "x.txt", "new")
    assert names(tmp_path) == {"x.txt", LEFT}
    os.utime(tmp_path / LEFT, (10**9, 10**9))
    write_text(tmp_path / "x.txt", "newer")
    assert names(tmp_path) == {"x.txt"}


def test_a_name_that_is_taken_away_at_once_is_tried_anew(tmp_path, monkeypatch):
    taken, lock = [], module._lock

    def taking(file):
        if len(taken) < 3:  # another took it for one that was left
            taken.append(file.name)
            Path(file.name).unlink()
        return lock(file)

    monkeypatch.setattr(module, "_lock", taking)
    write_text(tmp_path / "x.txt", "new")
    assert len(taken) == 3
    assert names(tmp_path) == {"x.txt"}


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "No space left on device. Nothing was written. Make room on that disk"),
        (errno.EDQUOT, "Make room on that disk"),
        (errno.EROFS, "Choose a folder that may be written to"),
        (errno.EACCES, "Choose a folder that may be written to"),
        (errno.ENAMETOOLONG, "Choose a shorter name"),
        (errno.EIO, "The disk itself reports it"),
        (errno.EBUSY, "Is there room on the disk"),
    ],
)
def test_what_to_do_goes_by_what_is_wrong(number, words):
    error = OSError(number, os.strerror(number), "/a/.prolora-1.partial")
    said = str(unwritable(Path("/a/my lora.safetensors"), error))
    assert said.startswith("my lora.safetensors could not be saved in /a: ")
    assert words in said and ".partial" not in said


def test_a_name_that_is_too_long(tmp_path):
    with pytest.raises(ProLoRAError, match=r"File name too long.*Choose a shorter name"):
        write_text(tmp_path / ("ä" * 200), "text")
    assert not names(tmp_path)


KINDS = sorted(_DTYPES.keys() - {"F4"})  # which has no scalars
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)
TENSORS = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5),
    st.tuples(st.sampled_from(KINDS), st.lists(st.integers(0, 4), max_size=3)),
    max_size=6,
)


@settings(deadline=None)
@given(TENSORS, st.dictionaries(TEXTS, TEXTS, max_size=3))
def test_the_bytes_are_those_of_the_library(wanted, metadata):
    tensors = {}
    for name, (kind, shape) in wanted.items():
        dtype = _DTYPES[kind]
        bits = torch.randint(0, 2, (*shape, dtype.itemsize), dtype=torch.uint8)
        tensors[name] = bits.view(dtype).reshape(shape)
    file = io.BytesIO()
    save_safetensors(tensors, file, metadata)
    ours, theirs = file.getvalue(), save(tensors, metadata or None)
    length = int.from_bytes(theirs[:8], "little")
    assert ours[8 + length :] == theirs[8 + length :]
    header = json.loads(ours[8 : 8 + length])
    # The library writes the texts of the header in any order.
    assert list(header) == list(json.loads(theirs[8 : 8 + length]))
    assert header == json.loads(theirs[8 : 8 + length])


def test_tensors_that_share_memory_and_are_laid_out_in_any_way(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"a": base, "b": base, "c": base.T, "d": base[1:, ::2], "e": base.requires_grad_()}
    write_safetensors(tensors, tmp_path / "a.safetensors", {})
    found = load((tmp_path / "a.safetensors").read_bytes())
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())


def test_half_a_character_in_a_text(tmp_path):
    """As Python has it of a file's name that is no Unicode."""
    write_safetensors({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"from": "x\udcff"})
    assert load((tmp_path / "a.safetensors").read_bytes())["a"] == 1
