"""Every shipped graph as a user opens it: dropped on the page, or chosen from its templates.

On both canvases, where the page has two: the classic one, and Nodes 2.0, whose nodes are elements.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_harness.browser import ComfyPage
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer
from comfy_harness.templates import choose_template, drop, find_template, has_templates, wait_for
from tests.host.small_sd15 import CHECKPOINTS, LORA

pytestmark = pytest.mark.browser

GRAPHS = sorted((PACK_ROOT / "workflows").glob("*.json"))
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

# The pen of the classic canvas writes a shortened text with an ellipsis at its end.
SHORTENED = """
const {canvas} = window.app, {ctx} = canvas, found = [];
const {fillText} = CanvasRenderingContext2D.prototype;
CanvasRenderingContext2D.prototype.fillText = function (text, ...rest) {
  if (String(text).endsWith("…") || String(text).endsWith("...")) found.push(String(text));
  return fillText.call(this, text, ...rest);
};
canvas.draw(true, true);
CanvasRenderingContext2D.prototype.fillText = fillText;
return found;
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
    """The pack alone, with empty files of the names that the graphs name."""
    folder = tmp_path_factory.mktemp("pack")
    for place, names in {"checkpoints": CHECKPOINTS, "loras": [LORA]}.items():
        (folder / "models" / place).mkdir(parents=True)
        for name in names:
            (folder / "models" / place / name).touch()
    with ComfyServer(folder) as server:
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


def check(page: ComfyPage, path: Path, picture: Path) -> None:
    page.screenshot(picture)
    assert page.red_nodes() == []
    assert page.call(LABELS) == []
    drawn = page.call(OVERLAPS)
    assert drawn["found"] == []
    if drawn["count"] == 0:  # the classic canvas
        assert page.call(SHORTENED) == []


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_a_dropped_graph(page, path, tmp_path):
    drop(page, path, titles_of(path))
    check(page, path, tmp_path / "dropped.png")


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_a_chosen_template(page, path, tmp_path):
    if not has_templates(page):
        pytest.skip("the page of June 2024 has no list of templates")
    card = find_template(page, path.stem)
    assert path.stem in card["text"]
    assert card["width"] >= 300
    choose_template(page, path.stem, titles_of(path))
    check(page, path, tmp_path / "chosen.png")


@pytest.mark.parametrize("path", FORMER, ids=lambda path: path.stem)
def test_a_graph_of_an_earlier_version(page, path, tmp_path):
    page.load(json.loads(path.read_text(encoding="utf-8")))
    wait_for(lambda: len(page.saved_graph()["nodes"]) == len(titles_of(path)), path.name)
    page.screenshot(tmp_path / "opened.png")
    assert page.red_nodes() == []
    assert page.call(LABELS) == []
