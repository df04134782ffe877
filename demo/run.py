"""Runs the demo: a real ComfyUI, the demo's two graphs, a picture of each (`make demo`).

Starts the server on a free loopback port in demo/output/comfyui, queues the graphs through its HTTP
and websocket interface, puts the pictures of each side by side, and stops the server.
"""

import json
import shutil
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from comfy_harness.client import ComfyClient, Progress
from comfy_harness.graph import find_node, to_prompt, widget_values
from comfy_harness.server import ComfyServer

from .sheet import Column, draw_sheet

DEMO = Path(__file__).resolve().parent
OUTPUT = DEMO / "output"
LORA = OUTPUT / "emoji_style_on_b.safetensors"

# Where each file of demo/models belongs in a ComfyUI.
MODEL_FOLDERS = {
    "emoji_a.safetensors": "checkpoints",
    "emoji_b.safetensors": "checkpoints",
    "emoji_a_pruned.safetensors": "checkpoints",
    "emoji_a_deepened.safetensors": "checkpoints",
    "emoji_style_lora.safetensors": "loras",
}


@dataclass(frozen=True)
class Graph:
    """A graph, and its picture.

    Attributes:
        file: in this folder; the picture has its own name in the output folder.
        columns: titles of the nodes that save a column of the picture, from left to right.
        told: titles of the nodes whose texts are printed.
    """

    file: str
    picture: str
    columns: tuple[str, ...]
    told: tuple[str, ...]


GRAPHS = (
    Graph(
        "workflow.json",
        "demo.png",
        (
            "A + LoRA",
            "B",
            "B + copied LoRA",
            "B + transferred LoRA (full)",
            "B + transferred LoRA (prolora)",
        ),
        ("ProLoRA Transfer (full)",),
    ),
    Graph(
        "children.json",
        "children.png",
        (
            "A + LoRA",
            "Pruned",
            "Pruned + LoRA as it is",
            "Pruned + transferred LoRA",
            "Pruned + calibrated LoRA",
            "Pruned + refined LoRA",
            "Deepened",
            "Deepened + LoRA as it is",
            "Deepened + transferred LoRA",
            "Deepened + calibrated LoRA",
            "Deepened + refined LoRA",
        ),
        (
            "Record Source LoRA",
            "ProLoRA Transfer (pruned)",
            "ProLoRA Transfer (pruned, calibrated)",
            "Refine (pruned)",
            "Refine (deepened)",
        ),
    ),
)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped too
    started = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    folder = OUTPUT / "comfyui"
    link_models(folder)

    with ComfyServer(folder, {"emoji": DEMO / "emoji"}) as server:
        print(f"{server.host.name} answers at {server.url}", flush=True)
        for graph in GRAPHS:
            run(graph, server.client())
    shutil.copy(newest(folder / "output" / "loras"), LORA)

    for graph in GRAPHS:
        print(f"\na picture:            {OUTPUT / graph.picture}", end="")
    print(f"\nthe transferred LoRA: {LORA}")
    print(f"ComfyUI's log:        {server.log_path}")
    print(f"done in {time.monotonic() - started:.0f} s; the server is stopped")


def run(graph: Graph, client: ComfyClient) -> None:
    content = json.loads((DEMO / graph.file).read_text(encoding="utf-8"))
    object_info = client.object_info()
    done = client.queue(to_prompt(content, object_info), ProgressPrinter(content))
    for title in graph.told:
        print("\n" + "\n".join(done.of(find_node(content, title)["id"])["text"]))
    prompt = widget_values(find_node(content, "Emoji Prompt"), object_info)
    columns = []
    for title in graph.columns:
        shown = done.of(find_node(content, title)["id"])["images"]
        columns.append(Column(title, [client.image(image) for image in shown]))
    rows = [name.strip() for name in prompt["names"].split(",")]
    draw_sheet(rows, columns).save(OUTPUT / graph.picture)


def link_models(folder: Path) -> None:
    """Puts the demo's models into the folder of a host."""
    for name, place in MODEL_FOLDERS.items():
        link_model(DEMO / "models" / name, folder / "models" / place / name)


def link_model(file: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        place.symlink_to(file)
    except OSError:  # Windows, without the right to make links
        shutil.copy(file, place)


class ProgressPrinter:
    """One line for each node that works, and for each quarter of its progress."""

    def __init__(self, graph: dict) -> None:
        self._titles = {str(node["id"]): node["title"] for node in graph["nodes"]}
        self._last = ("", -1)

    def __call__(self, progress: Progress) -> None:
        quarter = 4 * progress.value // progress.maximum if progress.maximum else 0
        if (progress.node_id, quarter) == self._last:
            return
        self._last = (progress.node_id, quarter)
        title = self._titles.get(progress.node_id, progress.node_type)
        share = f" {25 * quarter:3d} %" if progress.maximum else ""
        print(f"  {title}{share}", flush=True)


def newest(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    main()
