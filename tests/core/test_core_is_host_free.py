"""The core runs without a ComfyUI, and one folder alone talks to it."""

import ast
import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..imports import absolute_imports

ROOT = Path(__file__).parents[2]
HOST = {"comfy", "comfy_api", "comfy_extras", "execution", "folder_paths", "nodes", "server"}
PACK = {"prolora", "nodes"}
CORE_FILES = sorted((ROOT / "prolora").rglob("*.py"))
NODE_FILES = sorted((ROOT / "nodes").rglob("*.py"))

IMPORT_ALL = f"""
import importlib, pkgutil, sys
for name in {sorted(HOST)}:
    sys.modules[name] = None  # an import of it fails
import prolora
for module in pkgutil.walk_packages(prolora.__path__, "prolora."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
        print(module.name)
"""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def packages(path: Path) -> set[str]:
    """The top-level packages that a file imports; relative imports aside."""
    return {name.split(".")[0] for name in absolute_imports(path)}


def test_every_module_of_the_core_imports_without_a_host(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.split()) == len(CORE_FILES) - 2  # __init__ and __main__ themselves


@pytest.mark.parametrize("path", CORE_FILES, ids=name_of)
def test_the_core_never_names_the_host(path):
    assert not HOST & packages(path)


@pytest.mark.parametrize("path", [ROOT / "__init__.py", *CORE_FILES, *NODE_FILES], ids=name_of)
def test_inside_the_pack_imports_are_relative(path):
    """ComfyUI has a top-level module called `nodes` of its own."""
    assert not PACK & packages(path)


@pytest.mark.parametrize("path", NODE_FILES, ids=name_of)
def test_one_folder_talks_to_the_host(path):
    assert path.parent == ROOT / "nodes" / "host" or not HOST & packages(path)


def test_a_host_that_is_named_is_found():
    assert {"comfy", "folder_paths"} <= set().union(*map(packages, NODE_FILES))


def core_names(path: Path) -> Iterator[tuple[str, str]]:
    """The module of the core and the name, for all that a file of the nodes imports from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prolora"):
            yield from ((node.module or "", alias.name) for alias in node.names)


@pytest.mark.parametrize("path", NODE_FILES, ids=name_of)
def test_what_the_nodes_import_from_the_core_is_there(path):
    """No type checker reads the nodes, and no test without a host imports them."""
    for module, name in core_names(path):
        found = importlib.import_module(module)
        if not hasattr(found, name):
            importlib.import_module(f"{module}.{name}")
