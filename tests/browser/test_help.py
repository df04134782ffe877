"""Help at hand on the page: the page of a node with its picture, and names in other languages."""

import json
from collections.abc import Iterator

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from comfy_harness.browser import ComfyPage
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer

pytestmark = pytest.mark.browser

LANGUAGE = "zh"
NODE = "ProLoRATransfer"
ADD = """
window.app.graph.clear();
const node = LiteGraph.createNode(args[0]);
window.app.graph.add(node);
node.pos = [300, 300];
window.app.canvas.selectNode(node);
return [node.title, node.inputs.concat(node.widgets.filter((w) => w.serialize !== false))
  .map((slot) => [slot.name, slot.localized_name ?? slot.label])];
"""
# Where a widget is in the window, and its node in the middle of it.
PLACE = """
const {canvas, graph} = window.app;
const node = graph._nodes[0], widget = node.widgets.find((widget) => widget.name === args[0]);
canvas.ds.scale = 1;
canvas.ds.offset[0] = 700 - node.pos[0];
canvas.ds.offset[1] = 300 - node.pos[1];
canvas.setDirty(true, true);
await new Promise((resume) => setTimeout(resume, 500));
return [730, 300 + widget.last_y + 10].map(Math.round);
"""
# Texts of the page's own translator, which has a syntax: a brace may break it.
TRANSLATED = """
const {$t} = document.querySelector("#vue-app").__vue_app__.config.globalProperties;
return args[0].map((key) => $t(key));
"""
HELP = ".node-help-content"
PICTURES = f"return [...document.querySelectorAll('{HELP} img')].map((p) => p.naturalWidth);"


@pytest.fixture
def page(tmp_path) -> Iterator[ComfyPage]:
    with ComfyServer(tmp_path) as server, ComfyPage(server.url) as opened:
        if opened.call("return !app.extensionManager?.setting;"):
            pytest.skip("the page of June 2024 has no help and one language")
        yield opened


def texts(page: ComfyPage, css: str) -> list[str]:
    return [element.text for element in page.driver.find_elements(By.CSS_SELECTOR, css)]


def keys_of(texts: dict, path: str) -> Iterator[tuple[str, str]]:
    for key, value in texts.items():
        if isinstance(value, dict):
            yield from keys_of(value, f"{path}.{key}")
        else:
            yield f"{path}.{key}", value.replace("{'{'}", "{").replace("{'}'}", "}")


def test_the_help_of_a_node_opens_with_text_and_picture(page, tmp_path):
    page.call(ADD, NODE)
    button = "[data-testid=info-button]"
    page.wait_until(lambda: texts(page, button) != [], "the button of the help")
    page.driver.find_element(By.CSS_SELECTOR, button).click()
    page.wait_until(lambda: texts(page, f"{HELP} h2") != [], "the help page")
    assert texts(page, f"{HELP} h2") == ["Inputs", "Outputs", "Example"]
    page.wait_until(lambda: all(page.call(PICTURES)), "the picture")
    assert page.call(PICTURES)[0] > 300
    page.screenshot(tmp_path / "help.png", fit=False)


def test_names_and_tooltips_are_in_the_language_of_the_page(page, tmp_path):
    page.call("await app.extensionManager.setting.set('Comfy.Locale', args[0]);", LANGUAGE)
    page.reload()
    path = PACK_ROOT / "locales" / LANGUAGE / "nodeDefs.json"
    names = json.loads(path.read_text(encoding="utf-8"))
    said = dict(keys_of(names, "nodeDefs"))
    assert page.call(TRANSLATED, list(said)) == list(said.values())
    title, slots = page.call(ADD, NODE)
    assert title == names[NODE]["display_name"]
    wanted = {name: text["name"] for name, text in names[NODE]["inputs"].items()}
    assert dict(slots) == wanted

    page.driver.set_window_size(1600, 1000)
    x, y = page.call(PLACE, "threshold")
    canvas = page.driver.find_element(By.ID, "graph-canvas")
    middle = canvas.rect["width"] / 2, canvas.rect["height"] / 2
    hand = ActionChains(page.driver)
    hand.move_to_element_with_offset(canvas, round(x - middle[0]), round(y - middle[1]))
    hand.perform()
    tooltip = names[NODE]["inputs"]["threshold"]["tooltip"]
    page.wait_until(lambda: texts(page, ".node-tooltip") == [tooltip], "the tooltip", 10)
    page.screenshot(tmp_path / "language.png", fit=False)
