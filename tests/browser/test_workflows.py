"""The shipped graphs in the real page: no red node, and the prompt that our own converter makes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_harness.graph import prompt_differences, to_prompt
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer
from tests.host.small_sd15 import DISTILLED, LORA, SOURCE, TARGET

pytestmark = pytest.mark.browser

WORKFLOWS = sorted((PACK_ROOT / "workflows").glob("*.json"))
DEMO = PACK_ROOT / "demo" / "workflow.json"


# The files that the graphs name. A new page marks a loader red whose file is not there, so they
# are, by name; nothing is loaded here.
FILES = {
    "checkpoints": [SOURCE, TARGET, DISTILLED, "emoji_a.safetensors", "emoji_b.safetensors"],
    "loras": [LORA, "emoji_style_lora.safetensors"],
}


def with_files(folder: Path) -> Path:
    for place, names in FILES.items():
        (folder / "models" / place).mkdir(parents=True)
        for name in names:
            (folder / "models" / place / name).touch()
    return folder


@pytest.fixture(scope="module")
def with_pack(tmp_path_factory) -> Iterator[ComfyServer]:
    """The pack alone, as a user has it."""
    with ComfyServer(with_files(tmp_path_factory.mktemp("pack"))) as server:
        yield server


@pytest.fixture(scope="module")
def with_demo(tmp_path_factory) -> Iterator[ComfyServer]:
    emoji = {"emoji": PACK_ROOT / "demo" / "emoji"}
    with ComfyServer(with_files(tmp_path_factory.mktemp("demo")), emoji) as server:
        yield server


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shipped_workflow(with_pack, path, tmp_path):
    check(with_pack, path, tmp_path)


def test_the_demo_workflow(with_demo, tmp_path):
    check(with_demo, DEMO, tmp_path)


def check(server: ComfyServer, path: Path, tmp_path: Path) -> None:
    from comfy_harness.browser import ComfyPage  # selenium is there for the browser tests only

    graph = json.loads(path.read_text(encoding="utf-8"))
    object_info = server.client().object_info()
    with ComfyPage(server.url) as page:
        page.load(graph)
        page.screenshot(tmp_path / f"{path.stem}.png")
        assert page.red_nodes() == []
        assert len(page.saved_graph()["nodes"]) == len(graph["nodes"])
        assert prompt_differences(page.prompt(), to_prompt(graph, object_info), object_info) == []
