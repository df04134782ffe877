"""Runs the demo: a real ComfyUI, the demo's graph, one picture (`make demo`).

Starts the server on a free loopback port in demo/output/comfyui, queues demo/workflow.json through
its HTTP and websocket interface, puts the pictures of the graph side by side, and stops the server.
"""

import json
import shutil
import signal
import sys
import time
from pathlib import Path

from comfy_harness.client import ComfyClient, Finished, Progress
from comfy_harness.graph import find_node, to_prompt, widget_values
from comfy_harness.server import ComfyServer

from .sheet import Column, draw_sheet

DEMO = Path(__file__).resolve().parent
OUTPUT = DEMO / "output"
PICTURE = OUTPUT / "demo.png"
LORA = OUTPUT / "emoji_style_on_b.safetensors"

# Where each file of demo/models belongs in a ComfyUI.
MODEL_FOLDERS = {
    "emoji_a.safetensors": "checkpoints",
    "emoji_b.safetensors": "checkpoints",
    "emoji_style_lora.safetensors": "loras",
}

# Titles of the nodes that save a column of the picture, from left to right.
COLUMNS = (
    "A + LoRA",
    "B",
    "B + copied LoRA",
    "B + transferred LoRA (full)",
    "B + transferred LoRA (prolora)",
)


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the server is stopped too
    started = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    folder = OUTPUT / "comfyui"
    for name, place in MODEL_FOLDERS.items():
        link_model(DEMO / "models" / name, folder / "models" / place / name)
    graph = json.loads((DEMO / "workflow.json").read_text(encoding="utf-8"))

    with ComfyServer(folder, {"emoji": DEMO / "emoji"}) as server:
        print(f"{server.host.name} answers at {server.url}", flush=True)
        client = server.client()
        object_info = client.object_info()
        done = client.queue(to_prompt(graph, object_info), ProgressPrinter(graph))
        print_summary(graph, done)
        save_picture(graph, object_info, client, done)
    shutil.copy(newest(folder / "output" / "loras"), LORA)

    print(f"\nthe picture:          {PICTURE}")
    print(f"the transferred LoRA: {LORA}")
    print(f"ComfyUI's log:        {server.log_path}")
    print(f"done in {time.monotonic() - started:.0f} s; the server is stopped")


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


def print_summary(graph: dict, done: Finished) -> None:
    node = find_node(graph, "ProLoRA Transfer (full)")
    print("\n" + "\n".join(done.of(node["id"])["text"]))


def save_picture(graph: dict, object_info: dict, client: ComfyClient, done: Finished) -> None:
    prompt = find_node(graph, "EmojiPrompt")
    names = widget_values(prompt, object_info)["names"].split(",")
    columns = []
    for title in COLUMNS:
        shown = done.of(find_node(graph, title)["id"])["images"]
        columns.append(Column(title, [client.image(image) for image in shown]))
    draw_sheet([name.strip() for name in names], columns).save(PICTURE)


def newest(folder: Path) -> Path:
    return max(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)


if __name__ == "__main__":
    main()
