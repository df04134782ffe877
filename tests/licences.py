"""The licences of what the command line needs, as the installed packages state them.

In ComfyUI the pack adds no package. Here are the extras of pyproject.toml, and what they bring
along. `make licences` writes docs/licences.md.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import tomllib
from packaging.requirements import Requirement

from benchmarks.evidence.page import with_section
from benchmarks.evidence.tables import markdown
from prolora.files.atomic_write import write_text

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
# What may be imported by a program under the MIT licence.
ALLOWED = {
    *("0BSD", "Apache-2.0", "BSD", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python"),
    *("MIT", "MIT-CMU", "PSF-2.0", "Zlib"),
    "MPL-2.0",  # which binds whoever changes the package's own files
    "NVIDIA",  # torch's CUDA libraries; torch's wheels for the CPU bring none
}
# How packages write it that do not state an SPDX expression.
SPELLINGS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "LicenseRef-NVIDIA-Proprietary": "NVIDIA",
    "MIT License": "MIT",
    "NVIDIA Proprietary Software": "NVIDIA",
}
# Of NVIDIA's package of packages, which says nothing of itself.
UNSTATED = {"cuda-toolkit": "NVIDIA"}


@dataclass(frozen=True)
class Dependency:
    """A package that an extra needs.

    Attributes:
        package: its name in a registry.
        licence: see ALLOWED; several are joined by AND or OR. "" if it states none.
        extras: of ours, which need it.
        is_direct: an extra names it.
    """

    package: str
    licence: str
    extras: tuple[str, ...]
    is_direct: bool

    @property
    def is_allowed(self) -> bool:
        every = re.split(r" AND ", self.licence)
        return all(any(part in ALLOWED for part in one.split(" OR ")) for one in every)


def dependencies() -> list[Dependency]:
    """Of all extras, those that are installed here, by their names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    direct = {_name(Requirement(line).name) for lines in extras.values() for line in lines}
    needed: dict[str, set[str]] = {}
    for extra, lines in extras.items():
        for package in _with_all_below(lines):
            needed.setdefault(package, set()).add(extra)
    return [
        Dependency(package, licence_of(distribution(package)), tuple(sorted(of)), package in direct)
        for package, of in sorted(needed.items())
    ]


def licence_of(package: Distribution) -> str:
    """In one word, where it has one."""
    said = package.metadata
    classifiers = (c.split(" :: ") for c in said.get_all("Classifier") or ())
    classified = [c[-1] for c in classifiers if c[0] == "License" and len(c) > 2]
    for found in (said.get("License-Expression"), said.get("License"), *classified):
        known = SPELLINGS.get(found or "", found or "")
        if all(word in ALLOWED for word in re.split(r" AND | OR ", known)):
            return known
    return UNSTATED.get(_name(said["Name"]), " ".join(classified))


def _with_all_below(lines: list[str]) -> Iterator[str]:
    """The packages that lines of requirements name, and those that these need, if installed."""
    waiting, seen = [Requirement(line) for line in lines], set[tuple[str, str]]()
    while waiting:
        one = waiting.pop()
        name = _name(one.name)
        for extra in {"", *one.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            try:
                below = map(Requirement, distribution(name).requires or ())
            except PackageNotFoundError:
                continue
            waiting += (b for b in below if b.marker is None or b.marker.evaluate({"extra": extra}))
            yield name


def _name(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def table() -> str:
    """Those that an extra names, then those that they bring along."""
    found = sorted(dependencies(), key=lambda one: (not one.is_direct, one.package))
    rows = [
        [one.package, one.licence, ", ".join(one.extras), "itself" if one.is_direct else "with it"]
        for one in found
    ]
    return markdown(["package", "licence", "extra", "named"], rows)


if __name__ == "__main__":
    write_text(PAGE, with_section(PAGE.read_text(encoding="utf-8"), "licences", table()))
