"""A failing test that used a ComfyServer shows the end of the server's log.

Load it in tests/conftest.py: `pytest_plugins = ["comfy_harness.pytest_plugin"]`.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from .server import ComfyServer


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[Any]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for value in getattr(item, "funcargs", {}).values():
            if isinstance(value, ComfyServer):
                report.sections.append((f"log of {value.host.name}", value.log_tail()))
    return report
