"""Makes the pictures of the graphs and of the nodes (`python -m demo.pictures`), in a new ComfyUI.

workflows/*.jpg, which the page's list of templates shows, web/docs/images/*.jpg, for the help
pages, and docs/one_node.png, of a run. Needs chromium, and COMFYUI_PATH of a ComfyUI whose page
draws nodes as elements (Nodes 2.0).
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
from comfy_harness.templates import put_empty_files

from .run import link_models
from .sheet import HEADER, LABEL, MARGIN

DEMO, ONE_NODE = PACK_ROOT / "demo", "one_node"
DOCS, WORKFLOWS = PACK_ROOT / "docs", PACK_ROOT / "workflows"
IMAGES = PACK_ROOT / "web" / "docs" / "images"
CELL = 128  # pixels of a picture in a sheet of the demo
SIDE = 480  # of a graph's picture, at most
QUALITY = 78


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


# What the others do is shown by the graph itself, or by what it makes.
SHEETS = {"Compare checkpoints": "heat_map.png"}
CUTS = {
    "Load a LoRA for this model": Cut("children.png", (0, 6, 8)),
    "Transfer a LoRA": Cut("children.png", (0, 1, 3)),
    "Compare modes": Cut("demo.png", (1, 2, 3)),
    "Record and refine": Cut("children.png", (3, 4, 5)),
    "Use a recording": Cut("children.png", (6, 7, 9)),
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
NO_MAP = "await app.extensionManager.setting.set('Comfy.Minimap.Visible', false);"
# The whole graph at full size, clear of the page's own panels, and where it is then.
AT_TOP = """
const {canvas} = window.app;
canvas.ds.scale = 1;
canvas.ds.offset = [100, 150];
canvas.setDirty(true, true);
"""
FRAMES = """
const nodes = [...document.querySelectorAll("[data-node-id]")];
const boxes = nodes.map((node) => node.getBoundingClientRect());
const edge = (choose, side) => choose(...boxes.map((box) => box[side]));
return [edge(Math.min, "left"), edge(Math.min, "top"),
  edge(Math.max, "right"), edge(Math.max, "bottom")];
"""
VALUES = {
    "lora_name": "my_style.safetensors",
    "source_checkpoint": "v1-5-pruned-emaonly-fp16.safetensors",
}


def main() -> None:
    graphs = sorted(WORKFLOWS.glob("*.json"))
    folder = Path(tempfile.mkdtemp())
    put_empty_files(graphs, folder)
    IMAGES.mkdir(parents=True, exist_ok=True)
    with ComfyServer(folder) as server, ComfyPage(server.url, (1920, 1080)) as page:
        page.use_vue_nodes(True)
        page.call(NO_MAP)  # it lies on the graphs
        info = server.client().object_info()
        for name in info:
            if name.startswith("ProLoRA"):
                save(node_picture(page, name), IMAGES / f"{name}.jpg")
        for path in graphs:
            save(picture_of(page, path), path.with_suffix(".jpg"))
    save(run_picture(ONE_NODE), DOCS / f"{ONE_NODE}.png")


def node_picture(page: ComfyPage, name: str) -> Image.Image:
    page.call(ALONE, name, VALUES)
    time.sleep(1)
    left, top, right, bottom = page.call(FRAME)
    return window(page).crop((left - 16, top - 16, right + 16, bottom + 16))


def picture_of(page: ComfyPage, path: Path) -> Image.Image:
    if path.stem in CUTS:
        return CUTS[path.stem].make()
    if path.stem in SHEETS:
        return Image.open(DOCS / SHEETS[path.stem]).convert("RGB")
    return graph_picture(page, path)


def graph_picture(page: ComfyPage, path: Path) -> Image.Image:
    page.load(json.loads(path.read_text(encoding="utf-8")))
    page.screenshot(Path(tempfile.mkdtemp()) / "fitted.png")
    left, top, right, bottom = page.call(FRAMES)
    return window(page).crop((left - 20, top - 40, right + 20, bottom + 20))


def run_picture(name: str) -> Image.Image:
    """A graph of the demo after a run, with the pictures and the texts that it made."""
    folder = Path(tempfile.mkdtemp())
    link_models(folder)
    graph = json.loads((DEMO / f"{name}.json").read_text(encoding="utf-8"))
    emoji = {"emoji": DEMO / "emoji"}
    with ComfyServer(folder, emoji) as server, ComfyPage(server.url, (1920, 1080)) as page:
        page.use_vue_nodes(True)
        page.load(graph)
        page.run()
        page.call(AT_TOP)
        time.sleep(2)
        left, top, right, bottom = page.call(FRAMES)
        return window(page).crop((left - 12, top - 12, right + 12, bottom + 12))


def window(page: ComfyPage) -> Image.Image:
    return Image.open(io.BytesIO(page.driver.get_screenshot_as_png())).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    if path.parent == WORKFLOWS or (path.suffix == ".jpg" and picture.width > 1000):
        picture.thumbnail((2 * SIDE, SIDE))
    if path.suffix == ".png":
        picture = picture.quantize()
    picture.save(path, quality=QUALITY, optimize=True)
    print(f"{path.relative_to(PACK_ROOT)}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
