"""A folder of files that can be made again, and the memory of what is in a file."""

import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from prolora.errors import ProLoRAError
from prolora.files.cache import CONTENT, KEY, FileCache
from prolora.files.digests import DigestMemory, file_sha256, stamp

ONE, OTHER = "1" * 64, "2" * 64
TENSORS = {
    "up": torch.randn(4, 2),
    "alpha": torch.tensor(2.0),
    "half": torch.randn(3).half(),
    "empty": torch.zeros(0, 4),
}
BIG = 2**40


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def aged(path: Path, hours: float) -> None:
    then = time.time() - 3600 * hours
    os.utime(path, (then, then))


def test_what_is_kept_is_found(tmp_path):
    cache = FileCache(tmp_path / "new", BIG)
    assert cache.find(ONE) is None
    path = cache.keep(ONE, "my lora for b", TENSORS, {"told": "yes"})
    assert path.name == "my lora for b 11111111.safetensors"
    found = cache.find(ONE)
    assert same(found.tensors, TENSORS) and same(load_file(path), TENSORS)
    assert all(found.tensors[key].dtype == TENSORS[key].dtype for key in TENSORS)
    assert found.metadata["told"] == "yes" and found.path == path
    assert cache.find(OTHER) is None
    path.unlink()  # what was found lies in memory
    assert same(found.tensors, TENSORS)


def test_a_key_of_the_same_beginning_is_another(tmp_path):
    cache = FileCache(tmp_path, BIG)
    cache.keep(ONE, "one", TENSORS, {})
    assert cache.find("1" * 63 + "2") is None


@pytest.mark.parametrize("name", ["a/b:c*?", "../../up", "x" * 300, "日本 ø", "<lora:x:1>", ""])
def test_any_name_is_one_of_a_file_in_the_folder(tmp_path, name):
    cache = FileCache(tmp_path, BIG)
    path = cache.keep(ONE, name, TENSORS, {})
    assert path.parent == tmp_path and [path] == list(tmp_path.iterdir())
    assert not set(path.name) & set('<>:"/\\|?*')
    assert cache.find(ONE) is not None


def test_a_long_name_of_any_letters_is_cut(tmp_path):
    """File systems count bytes: a Chinese letter has three."""
    path = FileCache(tmp_path, 10**6).keep("a" * 64, "画" * 120, {"x": torch.zeros(1)}, {})
    assert path.name.startswith("画画") and path.exists()


def test_the_oldest_goes_first_and_a_use_counts(tmp_path):
    keys = [str(digit) * 64 for digit in range(5)]
    cache = FileCache(tmp_path, BIG)
    paths = [cache.keep(key, "x", TENSORS, {}) for key in keys[:4]]
    size = paths[0].stat().st_size
    for hours, path in zip((4, 3, 2, 1), paths, strict=True):
        aged(path, hours)
    assert cache.find(keys[0]) is not None
    FileCache(tmp_path, 3 * size + 10).keep(keys[4], "x", TENSORS, {})
    left = [cache.find(key) is not None for key in keys]
    assert left == [True, False, False, True, True]


def test_what_is_in_use_stays(tmp_path):
    cache = FileCache(tmp_path, BIG)
    old = cache.keep(ONE, "x", TENSORS, {})
    aged(old, 1)
    new = FileCache(tmp_path, 10).keep(OTHER, "x", TENSORS, {}, in_use=[old])
    assert old.exists() and new.exists()
    FileCache(tmp_path, 10).keep(OTHER, "x", TENSORS, {})
    assert not old.exists() and new.exists()


def test_nothing_else_is_removed(tmp_path):
    others = {"sound.safetensors", "x 22222222.safetensors", "x 33333333.safetensors", "a.txt"}
    save_file(TENSORS, tmp_path / "sound.safetensors")
    save_file(TENSORS, tmp_path / "x 22222222.safetensors", {"prolora_version": "1"})
    for name in ("x 33333333.safetensors", "a.txt"):
        (tmp_path / name).write_bytes(b"no safetensors")
    for name in others:
        aged(tmp_path / name, 9)
    kept = FileCache(tmp_path, 10).keep(ONE, "x", TENSORS, {})
    assert {path.name for path in tmp_path.iterdir()} == others | {kept.name}


@pytest.mark.parametrize("place", [-1, -40, 12])
def test_a_damaged_entry_is_refused_and_made_again(tmp_path, place):
    cache = FileCache(tmp_path, BIG)
    path = cache.keep(ONE, "x", {"up": torch.randn(64)}, {})
    content = bytearray(path.read_bytes())
    content[place] ^= 8
    path.write_bytes(content)
    with pytest.raises(ProLoRAError, match="x 11111111"):
        cache.find(ONE)
    cache.keep(ONE, "x", TENSORS, {})
    assert same(cache.find(ONE).tensors, TENSORS)


def test_another_header_over_the_tensors_is_refused(tmp_path):
    """A file that was merged or converted has the mark of before."""
    cache = FileCache(tmp_path, BIG)
    path = cache.keep(ONE, "x", TENSORS, {})
    marks = {KEY: ONE, CONTENT: cache.find(ONE).metadata[CONTENT]}
    save_file({**TENSORS, "up": TENSORS["up"].double()}, path, marks)
    with pytest.raises(ProLoRAError, match="damaged"):
        cache.find(ONE)


def test_a_file_of_another_is_not_overwritten(tmp_path):
    path = tmp_path / "x 11111111.safetensors"
    save_file({"mine": torch.ones(1)}, path)
    with pytest.raises(ProLoRAError, match="not written by ProLoRA's cache"):
        FileCache(tmp_path, BIG).find(ONE)
    with pytest.raises(ProLoRAError, match="Move it elsewhere"):
        FileCache(tmp_path, BIG).keep(ONE, "x", TENSORS, {})
    assert list(load_file(path)) == ["mine"]


def test_two_may_write_the_same(tmp_path):
    first, second = FileCache(tmp_path, BIG), FileCache(tmp_path, BIG)
    assert first.keep(ONE, "x", TENSORS, {}) == second.keep(ONE, "x", TENSORS, {})
    assert same(first.find(ONE).tensors, TENSORS)
    assert len(list(tmp_path.iterdir())) == 1


# What is in a file


class Counted:
    """Counts the pieces that are read."""

    def __init__(self) -> None:
        self.pieces = 0

    def __call__(self, done: int, total: int, name: str) -> None:
        self.pieces += 1


@pytest.fixture
def file(tmp_path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(10_000))
    return path


@pytest.fixture
def settled(monkeypatch):
    """As if a while had passed since the file was written."""
    now = time.time
    monkeypatch.setattr("prolora.files.digests.time.time", lambda: now() + 10)


def test_a_file_is_read_once(tmp_path, file, settled):
    memory, read = DigestMemory(tmp_path / "memory" / "digests.json"), Counted()
    assert memory.of(file, read) == file_sha256(file)
    assert read.pieces == 1
    again = DigestMemory(tmp_path / "memory" / "digests.json")
    assert again.of(file, read) == file_sha256(file)
    assert read.pieces == 1


def test_a_file_that_was_just_written_is_not_remembered(tmp_path, file):
    memory, read = DigestMemory(tmp_path / "digests.json"), Counted()
    memory.of(file, read)
    memory.of(file, read)
    assert read.pieces == 2


def test_a_file_of_the_future_is_remembered(tmp_path, file, settled):
    """As an archive of another time zone unpacks it."""
    tomorrow = file.stat().st_mtime + 86_400
    os.utime(file, (tomorrow, tomorrow))
    memory, read = DigestMemory(tmp_path / "digests.json"), Counted()
    assert memory.of(file, read) == memory.of(file, read)
    assert read.pieces == 1


def test_the_progress_of_a_large_file_is_in_megabytes(tmp_path):
    """Numbers that people can read: it stands on the node."""
    path, seen = tmp_path / "large.safetensors", []
    with path.open("wb") as large:
        large.truncate(50_000_000)
    file_sha256(path, lambda *said: seen.append(said))
    assert {total for _, total, _ in seen} == {50}
    assert all("MB of large.safetensors" in name for *_, name in seen)
    assert [done for done, *_ in seen] == sorted(done for done, *_ in seen)
    assert 40 < seen[-1][0] <= 50


@pytest.mark.parametrize("how", ["written", "renamed over"])
def test_another_content_of_the_same_size_and_time_is_read(tmp_path, file, settled, how):
    memory = DigestMemory(tmp_path / "digests.json")
    before, at = memory.of(file), file.stat()
    content = os.urandom(10_000)
    if how == "written":
        file.write_bytes(content)
    else:
        (tmp_path / "other").write_bytes(content)
        (tmp_path / "other").replace(file)
    os.utime(file, ns=(at.st_atime_ns, at.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (at.st_size, at.st_mtime_ns)
    assert memory.of(file) == file_sha256(file) != before


def test_a_link_is_the_file(tmp_path, file, settled):
    memory, read = DigestMemory(tmp_path / "digests.json"), Counted()
    link = tmp_path / "link"
    link.symlink_to(file)
    assert memory.of(file, read) == memory.of(link, read)
    assert read.pieces == 1


@pytest.mark.parametrize(
    "content", ["", "[]", '{"x": 1}', '{"x": ["y"]}', "{", "\udcff", "null", "[" * 100_000]
)
def test_a_damaged_memory_is_none(tmp_path, file, settled, content):
    path = tmp_path / "digests.json"
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    assert DigestMemory(path).of(file) == file_sha256(file)
    read = Counted()
    DigestMemory(path).of(file, read)
    assert read.pieces == 0


def test_a_file_that_is_written_meanwhile_is_refused(tmp_path, file):
    def write(*_) -> None:
        os.utime(file, ns=(0, 0))

    with pytest.raises(ProLoRAError, match="written while it was read"):
        DigestMemory(tmp_path / "digests.json").of(file, write)


def test_what_is_not_there(tmp_path):
    with pytest.raises(ProLoRAError, match="cannot be read"):
        DigestMemory(tmp_path / "digests.json").of(tmp_path / "none")


def test_what_is_gone_is_forgotten(tmp_path, file, settled):
    memory, other = DigestMemory(tmp_path / "digests.json"), tmp_path / "other"
    memory.of(file)
    file.rename(other)
    memory.of(other)
    assert str(file) not in (tmp_path / "digests.json").read_text()


def test_a_stamp_tells_a_change_of_the_entry_alone(file):
    before = stamp(file)
    time.sleep(0.05)
    os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    assert stamp(file) != before
