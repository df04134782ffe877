"""One real ComfyUI for all tests of the harness; the pack itself is not in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_harness.client import ComfyClient
from comfy_harness.server import ComfyServer

PROBES = {"probe_nodes.py": Path(__file__).parent / "probe_nodes.py"}


@pytest.fixture(scope="session")
def comfy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ComfyServer]:
    with ComfyServer(tmp_path_factory.mktemp("comfy"), PROBES, with_pack=False) as server:
        yield server


@pytest.fixture(scope="session")
def client(comfy: ComfyServer) -> ComfyClient:
    return comfy.client()
