"""What tests share lies in helper modules: nothing imports a test."""

import re
from pathlib import Path

import pytest

from ..imports import LIBRARIES, helpers_of, libraries_of

TESTS = Path(__file__).parents[1]
FILES = sorted(TESTS.rglob("*.py"))


def is_no_helper(path: Path) -> bool:
    return path.name.startswith("test_") or path.name == "conftest.py"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(TESTS)))
def test_nothing_imports_a_test(path):
    assert [found for found in helpers_of(path) if is_no_helper(found)] == []


def test_an_import_is_found(tmp_path):
    (tmp_path / "a.py").write_text("from . import test_b\nfrom .test_c import d\nimport os\n")
    (tmp_path / "b.py").write_text("def f():\n    from tests.core.test_a import g\n")
    found = {path.stem for name in "ab" for path in helpers_of(tmp_path / f"{name}.py")}
    assert found == {"test_a", "test_b", "test_c"}


def test_which_tests_need_a_library():
    """Those that `make test-oldest` leaves out, by their own imports or a helper's."""
    core = TESTS / "core"
    assert libraries_of(core / "test_glora.py") >= {"lycoris"}
    assert libraries_of(core / "test_two_layouts.py") >= {"lycoris", "peft"}
    assert libraries_of(core / "test_writers.py") == LIBRARIES
    assert not libraries_of(core / "test_updates.py")


def test_no_two_probes_are_nodes_of_one_name():
    """A host takes the one that it finds last."""
    files = (TESTS / "host").glob("probe_*.py")
    found = [name for path in files for name in re.findall(r'"(Probe\w+)": ', path.read_text())]
    assert len(found) > 20 and len(found) == len(set(found))
