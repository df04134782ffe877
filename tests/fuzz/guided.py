"""Reads files of one kind, changed as atheris finds worth while; a process of campaign.py.

python tests/fuzz/guided.py KIND FOLDER [choices of libFuzzer]
"""

import os
import sys
from pathlib import Path
from random import Random
from types import ModuleType

ROOT = Path(__file__).parents[2]


def importable() -> None:
    """Makes these tests importable: a package in .venv is called tests too."""
    tests = ModuleType("tests")
    tests.__path__ = [str(ROOT / "tests")]
    sys.modules["tests"] = tests
    sys.path.insert(0, str(ROOT))


def main(kind: str, folder: Path, *choices: str) -> None:
    """Does not come back: libFuzzer ends the process when it has done its runs."""
    import atheris

    importable()
    with atheris.instrument_imports(include=["prolora"]):
        from tests.fuzz import one_case
        from tests.fuzz.targets import TARGETS

    target = TARGETS[kind]

    def change(data: bytes, longest: int, seed: int) -> bytes:
        changed = target.mutate(data, Random(seed))
        return changed if len(changed) <= longest else data

    def read(data: bytes) -> None:
        one_case.read(target, folder, data)

    with one_case.limits():
        atheris.Setup([sys.argv[0], *choices], read, custom_mutator=change)
        atheris.Fuzz()


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
