"""How often the campaign does each thing, and how it tells what came of it."""

import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import pytest

from .told import FILE, Told, keep

QUICK = 50  # a quick campaign does each thing that many times less often


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--quick",
        action="store_true",
        help="the campaign in minutes, to see that it runs; docs/reliability.md is left as it is",
    )


@pytest.fixture
def times(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How often to do what the whole campaign does so many times."""
    if request.config.getoption("--quick"):
        return lambda whole: max(whole // QUICK, 3)
    return lambda whole: whole


Tell = Callable[..., None]


@pytest.fixture
def tell(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Tell]:
    """Keeps a line of docs/reliability.md: tell(section, tried, times, found, host="-").

    A quick campaign keeps it beside its other files, so that what the whole one found stays.
    """
    began, quick = time.monotonic(), request.config.getoption("--quick")
    kept: list[Told] = []

    def tell(section: str, tried: str, times: int, found: str, host: str = "-") -> None:
        nonlocal began
        now = time.monotonic()
        name = request.node.nodeid.partition("[")[0]
        command = f"pytest {name}"
        today = date.today().isoformat()
        kept.append(Told(section, tried, host, times, found, now - began, today, command))
        began = now

    yield tell
    for told in kept:
        keep(told, tmp_path / "told.csv" if quick else FILE)
