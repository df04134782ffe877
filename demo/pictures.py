"""Makes the pictures of the graphs and of the nodes (`python -m demo.pictures`), in a new ComfyUI.

workflows/*.jpg, which the page's list of templates shows, and web/docs/images/*.jpg, for the help
pages. Needs chromium, and COMFYUI_PATH of a ComfyUI whose page draws nodes (Nodes 2.0).
"""

import io
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from comfy_harness.browser import ComfyPage
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer

from .sheet import HEADER, LABEL, MARGIN

DOCS, WORKFLOWS = PACK_ROOT / "docs", PACK_ROOT / "workflows"
IMAGES = PACK_ROOT / "web" / "docs" / "images"
CELL = 128  # pixels of a picture in a sheet of the demo
SIDE = 480  # of a graph's picture, at most
QUALITY = 82


@dataclass(frozen=True)
class Cut:
    """Some columns of a sheet of the demo, which show what a graph does."""

    sheet: str
    columns: Sequence[int]
    rows: int = 3

    def make(self) -> Image.Image:
        sheet = Image.open(DOCS / self.sheet).convert("RGB")
        height = HEADER + self.rows * (CELL + MARGIN)
        cut = Image.new("RGB", (len(self.columns) * (CELL + MARGIN) + MARGIN, height), "white")
        for place, column in enumerate(self.columns):
            left = LABEL + column * (CELL + MARGIN)
            strip = sheet.crop((left, 0, left + CELL, height))
            cut.paste(strip, (MARGIN + place * (CELL + MARGIN), 0))
        return cut


# What the other graphs do is shown by the graph itself.
CUTS = {
    "Transfer a LoRA": Cut("children.png", (0, 1, 3)),
    "Compare modes": Cut("demo.png", (1, 2, 3)),
    "Record and refine": Cut("children.png", (3, 4, 5)),
}

# A node alone on the canvas, and where it is then in the window.
ALONE = """
const [type, values] = args;
const {app, LiteGraph} = window;
app.graph.clear();
const node = LiteGraph.createNode(type);
app.graph.add(node);
node.pos = [0, 0];
node.setSize([Math.max(400, node.size[0]), node.computeSize()[1]]);
for (const widget of node.widgets ?? [])
  if (widget.name in values) widget.value = values[widget.name];
app.canvas.ds.scale = 1;
app.canvas.ds.offset = [500, 150];
app.canvas.setDirty(true, true);
"""
FRAME = """
const box = document.querySelector("[data-node-id]").getBoundingClientRect();
return [box.left, box.top, box.right, box.bottom];
"""
VALUES = {
    "lora_name": "my_style.safetensors",
    "source_checkpoint": "v1-5-pruned-emaonly-fp16.safetensors",
}


def main() -> None:
    graphs = sorted(WORKFLOWS.glob("*.json"))
    folder = Path(tempfile.mkdtemp())
    put_files(graphs, folder / "models")
    IMAGES.mkdir(parents=True, exist_ok=True)
    with ComfyServer(folder) as server, ComfyPage(server.url, (1920, 1080)) as page:
        page.call("await window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', true);")
        info = server.client().object_info()
        for name in info:
            if name.startswith("ProLoRA"):
                save(node_picture(page, name), IMAGES / f"{name}.jpg")
        for path in graphs:
            cut = CUTS.get(path.stem)
            save(cut.make() if cut else graph_picture(page, path), path.with_suffix(".jpg"))


def put_files(graphs: Sequence[Path], models: Path) -> None:
    """Empty files of the names in the graphs: a loader whose file is not there is drawn red."""
    nodes = [node for graph in graphs for node in json.loads(graph.read_text("utf-8"))["nodes"]]
    values = [value for node in nodes for value in node["widgets_values"]]
    for place in ("checkpoints", "loras"):
        (models / place).mkdir(parents=True)
        for name in values:
            if str(name).endswith(".safetensors"):
                (models / place / name).touch()


def node_picture(page: ComfyPage, name: str) -> Image.Image:
    page.call(ALONE, name, VALUES)
    time.sleep(1)
    left, top, right, bottom = page.call(FRAME)
    return window(page).crop((left - 16, top - 16, right + 16, bottom + 16))


def graph_picture(page: ComfyPage, path: Path) -> Image.Image:
    page.load(json.loads(path.read_text(encoding="utf-8")))
    page.screenshot(Path(tempfile.mkdtemp()) / "fitted.png")
    return window(page).crop((60, 40, 1660, 900))


def window(page: ComfyPage) -> Image.Image:
    return Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    if picture.width > 1000 or path.parent == WORKFLOWS:
        picture.thumbnail((2 * SIDE, SIDE))
    picture.save(path, quality=QUALITY, optimize=True)
    print(f"{path.relative_to(PACK_ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
