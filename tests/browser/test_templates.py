"""Every shipped graph as a user opens it: dropped on the page, or chosen from its templates.

On both canvases, where the page has two: the classic one, and Nodes 2.0, whose nodes are elements.
"""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_harness.browser import ComfyPage, wait_for
from comfy_harness.graph import prompt_differences, to_prompt
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer
from comfy_harness.templates import (
    choose_template,
    drop,
    find_template,
    has_templates,
    put_empty_files,
)

pytestmark = pytest.mark.browser

GRAPHS = sorted((PACK_ROOT / "workflows").glob("*.json"))
DEMO = PACK_ROOT / "demo" / "workflow.json"
FORMER = sorted((PACK_ROOT / "tests" / "graphs").glob("*.json"))
CANVASES = {"classic": False, "nodes 2.0": True}

USE_NODES_2 = "await window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', args[0]);"

# What has no label, or one that is wider than its place. A canvas shortens what does not fit.
LABELS = """
const nodes = window.app.graph._nodes ?? window.app.graph.nodes;
const found = [];
for (const node of nodes) {
  if (!node.title) found.push(`${node.type}: no title`);
  for (const slot of [...(node.inputs ?? []), ...(node.outputs ?? [])])
    if (!(slot.label ?? slot.localized_name ?? slot.name)) found.push(`${node.title}: a slot`);
  if (node.type === "Note") continue;  // it is a text, which needs no label
  for (const widget of node.widgets ?? [])
    if (!(widget.label ?? widget.name)) found.push(`${node.title}: a widget`);
}
return found;
"""

# The pen of the classic canvas writes a shortened text with an ellipsis at its end. It writes only
# what is in sight, and large enough to be read.
SHORTENED = """
const {canvas, graph} = window.app, found = [];
const written = [];
const {fillText} = CanvasRenderingContext2D.prototype;
CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
  written.push(String(text));
  return fillText.call(this, text, ...rest);
};
canvas.ds.scale = 1;
for (const node of graph._nodes ?? graph.nodes) {
  canvas.ds.offset = [100 - node.pos[0], 100 - node.pos[1]];
  canvas.draw(true, true);
}
CanvasRenderingContext2D.prototype.fillText = fillText;
const short = written.filter((text) => text.endsWith("…") || text.endsWith("..."));
return {written: written.length, short: [...new Set(short)]};
"""

# The size that a page gives a graph which is opened, and whether the canvas writes texts at it.
AS_OPENED = """
const {canvas} = window.app;
return {scale: canvas.ds.scale, readable: !(canvas.low_quality ?? canvas.ds.scale < 0.6)};
"""

# Elements of Nodes 2.0: those that lie on each other, and texts that do not fit.
OVERLAPS = """
const boxes = [...document.querySelectorAll("[data-node-id]")].map((element) => {
  const title = element.querySelector('[data-testid="node-title"]')?.textContent;
  return {title, box: element.getBoundingClientRect()};
});
const found = [];
boxes.forEach((a, i) => boxes.slice(i + 1).forEach((b) => {
  const across = Math.min(a.box.right, b.box.right) - Math.max(a.box.left, b.box.left);
  const down = Math.min(a.box.bottom, b.box.bottom) - Math.max(a.box.top, b.box.top);
  if (across > 1 && down > 1) found.push(`${a.title} and ${b.title}`);
}));
return {count: boxes.length, found};
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ComfyServer]:
    """With the nodes of the demo, and empty files of the names that the graphs name."""
    folder = tmp_path_factory.mktemp("pack")
    put_empty_files([*GRAPHS, *FORMER, DEMO], folder)
    with ComfyServer(folder, {"emoji": PACK_ROOT / "demo" / "emoji"}) as server:
        yield server


@pytest.fixture(scope="module", params=CANVASES)
def page(server, request) -> Iterator[ComfyPage]:
    with ComfyPage(server.url, (1920, 1080)) as page:
        if has_templates(page):
            page.call(USE_NODES_2, CANVASES[request.param])
        elif CANVASES[request.param]:
            pytest.skip("the page of June 2024 has one canvas")
        yield page


def titles_of(path: Path) -> list[str]:
    return [node["title"] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]]


@pytest.fixture
def fits(page, path) -> None:
    """Skips a graph with a node that the host does not have: Wan came after June 2024."""
    kinds = {node["type"] for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]}
    known = set(page.call("return Object.keys(LiteGraph.registered_node_types);"))
    missing = kinds - known
    assert not any(kind.startswith("ProLoRA") for kind in missing)
    if missing:
        pytest.skip(f"this host has no {', '.join(sorted(missing))}")


def check(page: ComfyPage, path: Path, picture: Path) -> None:
    page.screenshot(picture)
    assert page.red_nodes() == []
    assert page.call(LABELS) == []
    drawn = page.call(OVERLAPS)
    assert drawn["found"] == []
    if drawn["count"] == 0:  # the classic canvas
        labels = page.call(SHORTENED)
        assert labels["written"] > 0
        assert labels["short"] == []


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_a_dropped_graph(page, path, fits, tmp_path):
    drop(page, path, titles_of(path))
    if has_templates(page):  # the page of June 2024 opens a graph where it was looking
        time.sleep(1)
        opened = page.call(AS_OPENED)
        assert opened["readable"], opened
    check(page, path, tmp_path / "dropped.png")


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_a_chosen_template(page, path, fits, tmp_path):
    if not has_templates(page):
        pytest.skip("the page of June 2024 has no list of templates")
    card = find_template(page, path.stem)
    assert path.stem in card["text"]
    assert card["width"] >= 300
    choose_template(page, path.stem, titles_of(path))
    check(page, path, tmp_path / "chosen.png")


@pytest.mark.parametrize("path", [*GRAPHS, DEMO], ids=lambda path: path.stem)
def test_the_page_makes_the_same_prompt(page, server, path, fits):
    """As our own converter, by which the other tests queue the graphs."""
    graph = json.loads(path.read_text(encoding="utf-8"))
    object_info = server.client().object_info()
    page.load(graph)
    wait_for(lambda: len(page.saved_graph()["nodes"]) == len(graph["nodes"]), path.name)
    assert prompt_differences(page.prompt(), to_prompt(graph, object_info), object_info) == []


@pytest.mark.parametrize("path", FORMER, ids=lambda path: path.stem)
def test_a_graph_of_an_earlier_version(page, path, tmp_path):
    page.load(json.loads(path.read_text(encoding="utf-8")))
    wait_for(lambda: len(page.saved_graph()["nodes"]) == len(titles_of(path)), path.name)
    page.screenshot(tmp_path / "opened.png")
    assert page.red_nodes() == []
    assert page.call(LABELS) == []
