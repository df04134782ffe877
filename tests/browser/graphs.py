"""The shipped graphs, with small pictures, and what their nodes say."""

import json

from comfy_harness.graph import with_widget
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer

QUICK = {
    "KSampler": {"steps": 1},
    "EmptyLatentImage": {"width": 64, "height": 64},
    "ProLoRARecord": {"samples": 40, "steps": 20, "positions": 80},  # minutes, if not stopped
    "ProLoRARefine": {"steps": 1},
}


def graph(server: ComfyServer, name: str, **changed: dict[str, object]) -> dict:
    """A shipped graph with small pictures; `changed` has widgets by the type of their node."""
    object_info = server.client().object_info()
    content = json.loads((PACK_ROOT / "workflows" / f"{name}.json").read_text(encoding="utf-8"))
    for node in content["nodes"]:
        widgets = QUICK.get(node["type"], {}) | changed.get(node["type"], {})
        for widget, value in widgets.items():
            content = with_widget(content, object_info, node["id"], widget, value)
    return content


def said(page, node: int) -> str:
    """The text of a node: the last of its boxes."""
    return page.texts(node)[-1]
