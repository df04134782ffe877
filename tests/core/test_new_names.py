"""Files that many programs write at once under names of their own."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from prolora.errors import ProLoRAError
from prolora.files.atomic_write import write_text
from prolora.files.new_names import NameTaken

MANY = 200


def test_one_of_many_gets_a_name(tmp_path):
    path = tmp_path / "one.json"

    def write(number: int) -> bool:
        try:
            write_text(path, str(number), overwrite=False)
        except NameTaken:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        written = [number for number, got in enumerate(pool.map(write, range(MANY))) if got]
    assert [path.read_text()] == list(map(str, written))
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_overwritten_where_it_may(tmp_path):
    path = tmp_path / "one.json"
    for text in ("a", "b"):
        write_text(path, text)
    assert path.read_text() == "b" and list(tmp_path.iterdir()) == [path]


def test_without_hard_links(tmp_path, monkeypatch):
    def no_links(*_: object) -> None:
        raise PermissionError("this disk has none")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    path = tmp_path / "one.json"
    write_text(path, "a", overwrite=False)
    with pytest.raises(ProLoRAError, match=r"one\.json exists\. Choose another name"):
        write_text(path, "b", overwrite=False)
    assert path.read_text() == "a" and list(tmp_path.iterdir()) == [path]
