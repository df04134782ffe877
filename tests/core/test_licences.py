"""What an extra installs is under a licence that is known and fits."""

from email.message import Message

import pytest

from ..licences import ALLOWED, PAGE, Dependency, dependencies, licence_of
from .pages import tables

FOUND = dependencies()


@pytest.mark.parametrize("one", FOUND, ids=lambda one: one.package)
def test_a_dependency_may_be_used(one):
    assert one.is_allowed, one


def test_those_that_an_extra_names_are_on_the_page():
    (rows,) = tables(PAGE.read_text(encoding="utf-8"))
    shown = {row["package"]: row["licence"] for row in rows}
    direct = {one.package: one.licence for one in FOUND if one.is_direct}
    assert {"torch", "safetensors", "numpy", "scipy", "tqdm"} <= direct.keys()
    assert direct.items() <= shown.items()


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MPL-2.0 AND MIT", True),
        ("GPL-3.0-only OR MIT", True),
        ("GPL-3.0-only", False),
        ("MIT AND AGPL-3.0-only", False),
        ("", False),
    ],
)
def test_what_is_allowed(licence, allowed):
    assert Dependency("x", licence, ("core",), True).is_allowed is allowed


@pytest.mark.parametrize(
    ("header", "licence"),
    [
        ({"License-Expression": "BSD-3-Clause"}, "BSD-3-Clause"),
        ({"License": "Apache 2.0 License"}, "Apache-2.0"),
        ({"License": "a text", "Classifier": "License :: OSI Approved :: MIT License"}, "MIT"),
        ({"Classifier": "License :: OSI Approved :: GNU General Public License v3 (GPLv3)"},
         "GNU General Public License v3 (GPLv3)"),
        ({}, ""),
    ],
)  # fmt: skip
def test_what_a_package_states(header, licence):
    metadata = Message()
    for name, value in {"Name": "x", **header}.items():
        metadata[name] = value

    class Package:
        pass

    Package.metadata = metadata
    assert licence_of(Package()) == licence
    assert (licence in ALLOWED) is (licence in ("BSD-3-Clause", "Apache-2.0", "MIT"))
