"""The graphs that are shipped, queued on a real host: the same files that a user opens."""

import json
from pathlib import Path

import pytest

from comfy_harness.graph import to_prompt, with_widget
from comfy_harness.hosts import PACK_ROOT

pytestmark = pytest.mark.host

WORKFLOWS = sorted((PACK_ROOT / "workflows").glob("*.json"))
DEMOS = {"workflow": 5, "children": 11}  # columns of their pictures, of 6 rows


def demo(name: str) -> Path:
    return PACK_ROOT / "demo" / f"{name}.json"


# A picture of 512 pixels in 20 steps takes minutes without a GPU; nothing else is changed.
QUICK = {
    "KSampler": {"steps": 2},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "ProLoRARecord": {"samples": 3, "steps": 2, "positions": 16},
    "ProLoRARefine": {"steps": 2, "batch": 4},
}


def load(path: Path, object_info: dict) -> dict:
    graph = json.loads(path.read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        for widget, value in QUICK.get(node["type"], {}).items():
            graph = with_widget(graph, object_info, node["id"], widget, value)
    return graph


# What a node of the graph says.
SAYS = {
    "base_to_distilled": "schedule 14.6",
    "compare_checkpoints": "0 of 100 weights below a transfer's threshold",
    "compare_modes": "8 of 8 modules transferred",
    "record_and_refine": "8 of 8 modules heard, 2 of them in the text encoder",
    "transfer_lora": "8 of 8 modules transferred",
}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_shipped_workflow(client, sd15, object_info, path):
    graph = load(path, object_info)
    done = client.queue(to_prompt(graph, object_info))
    shown = ("SaveImage", "PreviewImage")
    assert len(done.images()) == sum(node["type"] in shown for node in graph["nodes"])
    assert any(SAYS[path.stem] in text for text in done.texts())


@pytest.mark.parametrize(("name", "columns"), DEMOS.items())
def test_a_demo_workflow(client, object_info, name, columns):
    done = client.queue(to_prompt(load(demo(name), object_info), object_info))
    assert len(done.images()) == columns * 6


@pytest.mark.parametrize("path", [*WORKFLOWS, *map(demo, DEMOS)], ids=lambda path: path.stem)
def test_every_workflow_has_a_note_and_titles(path):
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    assert any(node["type"] == "Note" and node["widgets_values"][0] for node in nodes)
    assert all(node["title"] for node in nodes)
