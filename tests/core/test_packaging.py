"""The wheel and the registry's archive: every module is in them, and imports from them."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import tomllib

from prolora import __version__

ROOT = Path(__file__).parents[2]
CORE = {str(p.relative_to(ROOT)) for p in (ROOT / "prolora").rglob("*.py")}
NODES = {str(p.relative_to(ROOT)) for p in (ROOT / "nodes").rglob("*.py")}

SCRIPTS = ("bin", "Scripts")  # where pip puts programs

IMPORT_ALL = """
import importlib, pkgutil, sys
sys.path.insert(0, sys.argv[1])
import prolora
for module in pkgutil.walk_packages(prolora.__path__, "prolora."):
    if not module.name.endswith("__main__"):  # it runs the command line
        print(importlib.import_module(module.name).__file__)
print(prolora.__file__)
"""


def git_files(*options: str) -> set[str]:
    listed = subprocess.run(
        ["git", "-C", ROOT, "ls-files", "-z", *options], capture_output=True, text=True, check=True
    )
    return {name for name in listed.stdout.split("\0") if name}


pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="git lists the files")


def copied(names: set[str], folder: Path) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    return folder


def imported_from(folder: Path) -> set[str]:
    """The files of the core that an interpreter imports which knows this folder, and no other."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", IMPORT_ALL, folder],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return {str(Path(line).relative_to(folder)) for line in done.stdout.splitlines()}


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    """What `make registry` packs, as its tool lists it: git's files but those of .comfyignore."""
    names = git_files() - git_files("--cached", "--ignored", "--exclude-from", ".comfyignore")
    return copied(names, tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built of git's files, so that nothing is in it which only lies about here."""
    work = tmp_path_factory.mktemp("wheel")
    source = copied(git_files(), work / "source")
    pip = (sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index")
    built = subprocess.run(
        [*pip, "--wheel-dir", work, source], capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stdout + built.stderr
    (path,) = work.glob("prolora-*.whl")
    zipfile.ZipFile(path).extractall(work / "installed")
    return work / "installed"


@pytest.mark.parametrize("package", ["wheel", "archive"])
def test_every_module_of_the_core_imports(request, package):
    folder = request.getfixturevalue(package)
    assert imported_from(folder) == CORE - {str(Path("prolora", "__main__.py"))}
    assert (folder / "prolora" / "__main__.py").is_file()


def test_the_wheel_holds_the_core_alone(wheel):
    assert {path.name for path in wheel.iterdir() if path.suffix != ".dist-info"} == {"prolora"}


def test_the_wheel_brings_the_program(wheel, tmp_path):
    (file,) = wheel.parent.glob("*.whl")
    pip = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--no-warn-script-location",
    )
    subprocess.run([*pip, "--prefix", tmp_path, file], capture_output=True, check=True)
    (program,) = (path for path in tmp_path.rglob("prolora*") if path.parent.name in SCRIPTS)
    (packages,) = tmp_path.rglob("site-packages")
    done = subprocess.run(
        [program, "--version"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(packages)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"prolora {__version__}\n"


def test_the_archive_holds_every_node_and_no_tests(archive):
    """That they run in a host is tests/host's business."""
    names = {str(path.relative_to(archive)) for path in archive.rglob("*.py")}
    assert names == {"__init__.py", *CORE, *NODES}
    for name in sorted(names):
        compile((archive / name).read_text(encoding="utf-8"), name, "exec")


# What is promised, and what `make test-oldest` installs


def required(text: str) -> dict[str, str]:
    """Package -> the version that it must have, or the empty string."""
    return dict(re.findall(r"^([\w-]+)\b(.*)$", text, re.MULTILINE))


def test_one_promise_which_is_tested():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    core = project["project"]["optional-dependencies"]["core"]
    (line,) = re.findall(r"needs `pip install (.*?)`", (ROOT / "README.md").read_text("utf-8"))
    assert line.replace('"', "").split() == core
    tested = required((ROOT / "requirements" / "oldest.txt").read_text(encoding="utf-8"))
    for package, version in required("\n".join(core)).items():
        assert tested[package] == version.replace(">=", "==") + ".*" * bool(version)
