"""The blueprint *Move a LoRA*: found in the page's search, and one node on the canvas."""

import json
import time

import pytest
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from comfy_harness.browser import ComfyPage, wait_for
from comfy_harness.hosts import PACK_ROOT
from comfy_harness.server import ComfyServer
from comfy_harness.templates import has_templates
from tests.host.small_sd15 import CHECKPOINTS, LORA

pytestmark = pytest.mark.browser

BLUEPRINT = PACK_ROOT / "subgraphs" / "Move a LoRA.json"
NODES = "return window.app.graph._nodes.map((node) => node.title);"
WIDGETS = "return window.app.graph._nodes[0].widgets.map((widget) => widget.name);"


def test_it_is_found_and_makes_one_node(tmp_path):
    for place, names in {"checkpoints": CHECKPOINTS, "loras": [LORA]}.items():
        (tmp_path / "models" / place).mkdir(parents=True)
        for name in names:
            (tmp_path / "models" / place / name).touch()
    with ComfyServer(tmp_path) as server, ComfyPage(server.url) as page:
        if not has_templates(page):
            pytest.skip("the page of June 2024 has no subgraphs")
        page.call("window.app.graph.clear();")
        canvas = page.driver.find_element(By.ID, "graph-canvas")
        hand = ActionChains(page.driver)
        hand.move_to_element_with_offset(canvas, 0, 100).double_click().perform()
        time.sleep(1)  # the search opens
        hand.send_keys(BLUEPRINT.stem).perform()
        time.sleep(1)  # it looks for what is typed
        hand.send_keys(Keys.ENTER).perform()
        wait_for(lambda: page.call(NODES) == [BLUEPRINT.stem], "the node")
        assert page.red_nodes() == []
        graph = json.loads(BLUEPRINT.read_text(encoding="utf-8"))
        shown = [name for _, name in graph["nodes"][0]["properties"]["proxyWidgets"]]
        assert page.call(WIDGETS) == shown
        classes = [node["class_type"] for node in page.prompt().values()]
        assert classes == ["ProLoRALoadSource", "ProLoRATransfer", "ProLoRAApply"]
