import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from . import guard
from .imports import libraries_of

pytest_plugins = ["comfy_harness.pytest_plugin"]

# Times vary on a shared machine, so no deadline; `make test-thorough` draws many more examples.
settings.register_profile("default", max_examples=40, deadline=None)
settings.register_profile(
    "thorough", max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck)
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


sys.addaudithook(guard.hook)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Tests talk to a host, on this machine; those of the core talk to nobody."""
    with guard.connections_within_this_machine(allowed=item.path.parent.name != "core"):
        return (yield)


@pytest.fixture(autouse=True)
def nothing_was_refused() -> Iterator[None]:
    """Also not where what was refused was swallowed."""
    guard.caught.clear()
    yield
    assert guard.caught == []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--without-libraries",
        action="store_true",
        help="leave out the test files that need peft, lycoris, diffusers or transformers",
    )
    parser.addoption(
        "--write-bad-input",
        action="store_true",
        help="docs/bad_input.md is written as the tests find it, and not compared",
    )


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    is_test = collection_path.name.startswith("test_") and collection_path.suffix == ".py"
    if is_test and config.getoption("--without-libraries") and libraries_of(collection_path):
        return True
    return None
