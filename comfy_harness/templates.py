"""Opens a graph in ComfyUI's page as a user does: dropped on it, or from its list of templates."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .browser import ComfyPage, wait_for

DROP = """
const [name, content] = args;
const dataTransfer = new DataTransfer();
dataTransfer.items.add(new File([content], name, {type: "application/json"}));
const target = document.querySelector("#graph-canvas") ?? document.body;
for (const kind of ["dragenter", "dragover", "drop"])
  target.dispatchEvent(new DragEvent(kind, {dataTransfer, bubbles: true, cancelable: true}));
"""

BROWSE = 'await window.app.extensionManager.command.execute("Comfy.BrowseTemplates");'

# The list has hundreds of templates; those of one pack are found by its name.
SEARCH = """
const list = document.querySelector('[data-testid="template-workflows-content"]');
const field = (list?.closest('[role="dialog"]') ?? document).querySelector('input[type="text"]');
if (!list || !field) return false;
field.value = args[0];
field.dispatchEvent(new Event("input", {bubbles: true}));
return true;
"""

CARD = """
const card = document.querySelector(`[data-testid="template-workflow-${args[0]}"]`);
const picture = card?.querySelector("img");
return card && {text: card.innerText, width: picture?.naturalWidth ?? 0};
"""

CHOOSE = """
document.querySelector(`[data-testid="template-workflow-${args[0]}"]`).click();
"""

TITLES = """
return (window.app.graph._nodes ?? window.app.graph.nodes).map((node) => node.title).sort();
"""


# Folders of a ComfyUI, by the names that it knew in June 2024 and knows still.
MODEL_FOLDERS = ("checkpoints", "loras", "unet", "clip", "vae")


def put_empty_files(graphs: Iterable[Path], folder: Path) -> None:
    """Empty files of the names in the graphs: the page draws a node red whose file is not there.

    Args:
        folder: of a ComfyUI. A model's file is put wherever a loader may look for it.
    """
    nodes = [node for graph in graphs for node in json.loads(graph.read_text("utf-8"))["nodes"]]
    values = {str(value) for node in nodes for value in node["widgets_values"]}
    for name in values:
        if not name.endswith(".safetensors"):
            continue
        places = [folder] if "/" in name else [folder / "models" / of for of in MODEL_FOLDERS]
        for place in places:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).touch()


def drop(page: ComfyPage, path: Path, titles: list[str]) -> None:
    """Drop the file of a graph on the page, and wait until its nodes are there.

    Args:
        titles: of the graph's nodes.
    """
    page.call(DROP, path.name, path.read_text(encoding="utf-8"))
    wait_for(lambda: page.call(TITLES) == sorted(titles), f"the nodes of {path.name}")


def has_templates(page: ComfyPage) -> bool:
    """Whether the page has a list of templates; that of June 2024 has none."""
    return bool(page.call("return Boolean(window.app.extensionManager?.command);"))


def find_template(page: ComfyPage, title: str) -> dict[str, Any]:
    """Open the list of templates at the one with this title.

    Returns:
        The `text` on its card, and the `width` of its picture in pixels, 0 without one.
    """
    page.call(BROWSE)
    wait_for(lambda: page.call(SEARCH, title), "the list of templates")
    wait_for(lambda: (page.call(CARD, title) or {}).get("width"), f"{title} with its picture")
    return dict(page.call(CARD, title))


def choose_template(page: ComfyPage, title: str, titles: list[str]) -> None:
    """Choose the template from the open list, and wait until its nodes are there."""
    page.call(CHOOSE, title)
    wait_for(lambda: page.call(TITLES) == sorted(titles), f"the nodes of {title}")
