"""What a file imports, read from its text."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
# What trainers use. Their newest versions need a newer torch than the oldest that is promised.
LIBRARIES = {"diffusers", "lycoris", "peft", "transformers"}


def absolute_imports(path: Path) -> Iterator[str]:
    """The modules that a file imports by their full names, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module or ""


def relative_imports(path: Path) -> Iterator[Path]:
    """The files that a file imports by their places, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module] if node.module else [alias.name for alias in node.names]
            for name in names:
                yield path.parents[node.level - 1].joinpath(*name.split(".")).with_suffix(".py")


def helpers_of(path: Path) -> Iterator[Path]:
    """What a test or a helper imports out of tests/."""
    yield from relative_imports(path)
    for name in absolute_imports(path):
        if name.startswith("tests."):
            yield ROOT.joinpath(*name.split(".")).with_suffix(".py")


def libraries_of(path: Path) -> set[str]:
    """Which of LIBRARIES a test needs, by its own imports or its helpers'."""
    found = LIBRARIES & {name.split(".")[0] for name in absolute_imports(path)}
    return found.union(*(libraries_of(p) for p in helpers_of(path) if p.is_file()))
