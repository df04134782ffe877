"""The graphs that are shipped, and those of earlier versions, queued on a real host as they are."""

import json
from pathlib import Path

import pytest

from comfy_harness.graph import to_prompt, with_widget
from comfy_harness.hosts import PACK_ROOT

pytestmark = pytest.mark.host

WORKFLOWS = sorted((PACK_ROOT / "workflows").glob("*.json"))
# Saved by earlier versions: a graph for every shape that a node has had.
FORMER = sorted((PACK_ROOT / "tests" / "graphs").glob("*.json"))
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
MOVED = "8 of 8 modules transferred"
SAYS = {
    "Base to distilled": "schedule 14.6",
    "Choose a threshold by picture": MOVED,
    "Compare checkpoints": "0 of 100 weights below a transfer's threshold",
    "Compare modes": MOVED,
    "Record and refine": "8 of 8 modules heard, 2 of them in the text encoder",
    "Transfer a LoRA": MOVED,
    "2026-11-23 transfer_lora": MOVED,
    "2026-11-24 compare_checkpoints": "0 of 100 weights below a transfer's threshold",
    "2026-11-28 base_to_distilled": "schedule 14.6",
    "2026-11-28 compare_modes": MOVED,
    "2026-11-28 record_and_refine": "8 of 8 modules heard, 2 of them in the text encoder",
}


@pytest.mark.parametrize("path", [*WORKFLOWS, *FORMER], ids=lambda path: path.stem)
def test_a_workflow_runs(client, sd15, object_info, path):
    graph = load(path, object_info)
    done = client.queue(to_prompt(graph, object_info))
    shown = ("SaveImage", "PreviewImage")
    assert len(done.images()) == sum(node["type"] in shown for node in graph["nodes"])
    assert any(SAYS[path.stem] in text for text in done.texts())


@pytest.mark.parametrize(("name", "columns"), DEMOS.items())
def test_a_demo_workflow(client, object_info, name, columns):
    done = client.queue(to_prompt(load(demo(name), object_info), object_info))
    assert len(done.images()) == columns * 6
