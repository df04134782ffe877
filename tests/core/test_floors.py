"""The folders of the core are floors: a lower one never imports a higher one."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

CORE = Path(__file__).parents[2] / "prolora"
# From the ground up. A floor is a folder, or the files that lie in no folder.
FLOORS = (
    ("_version", "errors", "lazy", "memory", "progress", "surroundings", "threads"),
    ("algebra",),
    ("drawing",),
    ("files",),
    ("models",),
    ("adapters",),
    ("naming",),
    ("provenance",),
    ("pairing",),
    ("transfer",),
    ("extraction",),
    ("recording",),
    ("comparison",),
    ("evaluation",),
    ("inspection", "named_files", "__init__"),
    ("batch",),
    ("command_line",),
    ("__main__",),
)
HEIGHT = {name: height for height, names in enumerate(FLOORS) for name in names}
FILES = sorted(CORE.rglob("*.py"))


def floor_of(path: Path) -> str:
    return path.relative_to(CORE).with_suffix("").parts[0]


def imported(path: Path) -> Iterator[str]:
    """What of the core a file imports, by the name of its floor."""
    package = path.relative_to(CORE).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not node.level:
            continue  # an import by the full name is forbidden: test_core_is_host_free.py
        above = package[: len(package) - node.level + 1]
        names = [node.module] if node.module else [alias.name for alias in node.names]
        for name in names:
            yield (*above, *name.split("."))[0]


def climbs(path: Path) -> list[str]:
    return [name for name in imported(path) if HEIGHT[name] > HEIGHT[floor_of(path)]]


def test_every_file_has_a_floor():
    assert {floor_of(path) for path in FILES} == HEIGHT.keys()


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_no_file_imports_a_higher_floor(path):
    assert climbs(path) == []


def test_a_climb_is_found():
    names = {name for path in FILES for name in imported(path)}
    assert {"errors", "algebra", "models", "adapters", "pairing"} <= names
    job = CORE / "transfer" / "job.py"
    assert max(HEIGHT[name] for name in imported(job)) == HEIGHT["transfer"]
