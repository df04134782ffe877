"""ComfyUI's real page in a headless chromium, as an artist who opens a workflow sees it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import JavascriptException, WebDriverException
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # The page may reach the server under test only.
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)

# Every script runs as the body of an asynchronous function in the page; `args` are its arguments.
CALL = """
const done = arguments[arguments.length - 1];
const args = Array.from(arguments).slice(0, -1);
(async () => { %s })().then(
  (value) => done({value: value === undefined ? null : value}),
  (error) => done({error: String(error && error.stack || error)}),
);
"""

IS_READY = """
const app = window.app;
return Boolean(app && app.graph && window.LiteGraph
  && LiteGraph.registered_node_types && LiteGraph.registered_node_types["KSampler"]);
"""

# Red in every page: a node whose class is missing; in the newer ones also a node that names a
# model file which is not there.
RED = """
const known = window.LiteGraph.registered_node_types;
const nodes = window.app.graph._nodes || window.app.graph.nodes;
return nodes
  .filter((node) => node.has_errors || !(node.type in known))
  .map((node) => ({id: String(node.id), type: node.type, known: node.type in known}));
"""

FIT = """
const {canvas, graph} = window.app;
const nodes = graph._nodes || graph.nodes;
const left = Math.min(...nodes.map((n) => n.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1]));
const right = Math.max(...nodes.map((n) => n.pos[0] + n.size[0]));
const bottom = Math.max(...nodes.map((n) => n.pos[1] + n.size[1]));
const width = window.innerWidth, height = window.innerHeight, border = 80;
const scale = Math.min(1.5, (width - 2 * border) / (right - left),
  (height - 2 * border) / (bottom - top));
canvas.ds.scale = scale;
canvas.ds.offset[0] = (width / scale - left - right) / 2;
canvas.ds.offset[1] = (height / scale - top - bottom) / 2;
canvas.setDirty(true, true);
"""


# The pages draw no text box that is out of sight or too small to be read.
LOOK_AT = """
const canvas = window.app.canvas, node = window.app.graph?.getNodeById(args[0]);
if (!node) return [];  // not loaded yet
canvas.ds.scale = 1;
canvas.ds.offset[0] = window.innerWidth / 2 - node.pos[0] - node.size[0] / 2;
canvas.ds.offset[1] = window.innerHeight / 2 - node.pos[1] - node.size[1] / 2;
canvas.setDirty(true, true);
await new Promise((resume) => setTimeout(resume, 300));
"""

# What a person reads in the text boxes of a node, on either canvas.
TEXTS = f"""
{LOOK_AT}
const drawn = document.querySelector(`[data-node-id="${{args[0]}}"]`);  // by "Nodes 2.0"
const areas = drawn
  ? [...drawn.querySelectorAll("textarea")]
  : (node.widgets ?? []).map((widget) => widget.element ?? widget.inputEl).filter(Boolean);
return areas.filter((area) => area.isConnected && area.checkVisibility())
  .map((area) => area.value);
"""

# The pictures that a node shows, each as its width and height in pixels.
PICTURES = """
const node = window.app.graph.getNodeById(args[0]);
const drawn = document.querySelector(`[data-node-id="${args[0]}"]`);
const pictures = drawn ? [...drawn.querySelectorAll("img")] : (node.imgs ?? []);
return pictures.filter((picture) => picture.complete)
  .map((picture) => [picture.naturalWidth, picture.naturalHeight]);
"""

IS_BUSY = """
const queue = await (await fetch("queue")).json();
return queue.queue_running.length + queue.queue_pending.length > 0;
"""

HAS_VUE_NODES = "return Boolean(app.extensionManager?.setting?.get('Comfy.VueNodes.Enabled'));"
TAB = ".workflow-tabs button.p-togglebutton"
# Where the pages show errors: over the graph, beside it, and in June 2024.
MESSAGES = "[role=dialog], .p-toast, [data-testid=error-overlay], .p-dialog, .comfy-modal"


class BrowserNotFound(RuntimeError):
    """chromium or its driver is not on PATH."""


def wait_for(condition: Callable[[], object], what: str, seconds: float = 60) -> None:
    """Wait until the condition is true.

    Raises:
        TimeoutError: it does not become true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(0.2)


class ComfyPage:
    """ComfyUI's page, opened at `url`, for the length of a `with` block."""

    def __init__(
        self, url: str, size: tuple[int, int] = (1600, 1000), timeout: float = 120
    ) -> None:
        self.url = url
        self._profile = tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True)
        self._timeout = timeout
        try:
            self.driver = open_chromium(Path(self._profile.name), size)
        except BaseException:
            self._profile.cleanup()
            raise

    def __enter__(self) -> ComfyPage:
        try:
            self.reload()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and remove its profile."""
        self.driver.quit()
        self._profile.cleanup()

    def reload(self) -> None:
        """Open the page anew and wait until it has registered the host's nodes."""
        self.driver.set_script_timeout(self._timeout)
        self.driver.get(self.url)
        deadline = time.monotonic() + self._timeout
        while not self._is_ready():
            if time.monotonic() > deadline:
                raise TimeoutError(f"the page did not get ready:\n{self.console()}")
            time.sleep(0.3)

    def call(self, script: str, *args: Any) -> Any:
        """Run `script` in the page as the body of an async function of `args`; its result."""
        answer = self.driver.execute_async_script(CALL % script, *args)
        if "error" in answer:
            raise JavascriptException(answer["error"])
        return answer["value"]

    def load(self, graph: Mapping[str, Any]) -> None:
        """Open a workflow, as if its file had been dropped on the page."""
        self.call("await window.app.loadGraphData(args[0]);", dict(graph))

    def red_nodes(self) -> list[dict[str, Any]]:
        """The open workflow's red nodes: id, type, and whether the page knows the type (known)."""
        return list(self.call(RED))

    def prompt(self) -> dict[str, Any]:
        """The API prompt that the page itself would queue."""
        return dict(self.call("return (await window.app.graphToPrompt()).output;"))

    def saved_graph(self) -> dict[str, Any]:
        """The open workflow as the page would save it."""
        return dict(self.call("return JSON.parse(JSON.stringify(window.app.graph.serialize()));"))

    # A graph that runs

    def queue(self) -> None:
        """Queue the open workflow, as the button does."""
        self.call("await window.app.queuePrompt(0);")

    def is_busy(self) -> bool:
        """Whether the host has prompts that run or wait."""
        return bool(self.call(IS_BUSY))

    def run(self, timeout: float = 120) -> None:
        """Queue the open workflow and wait until the host has nothing more to do."""
        self.queue()
        self.wait_until(lambda: not self.is_busy(), "the end of the run", timeout)
        time.sleep(1.0)  # for the last messages

    def cancel(self) -> None:
        """Stop what runs, as the button does."""
        self.call("await fetch('interrupt', {method: 'POST'});")

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout: float = 60) -> None:
        """Ask again and again.

        Raises:
            TimeoutError: it does not come true.
        """
        try:
            wait_for(is_so, what, timeout)
        except TimeoutError as error:
            raise TimeoutError(f"{error}:\n{self.console()}") from None

    # What it shows

    def texts(self, node: int) -> list[str]:
        """What stands in the text boxes of a node, which is brought into view."""
        return list(self.call(TEXTS, node))

    def pictures(self, node: int) -> list[tuple[int, int]]:
        """Width and height of the pictures on a node."""
        return [(width, height) for width, height in self.call(PICTURES, node)]

    def messages(self) -> str:
        """The text of the dialogs and panels that are open."""
        found = self.driver.find_elements(By.CSS_SELECTOR, MESSAGES)
        return "\n".join(element.text for element in found if element.is_displayed())

    # What only the newer pages have

    def use_vue_nodes(self, on: bool) -> bool:
        """Choose "Nodes 2.0" or the canvas; False where the page has no such choice."""
        if self.call("return !app.extensionManager?.setting;"):
            return not on
        self.call("await app.extensionManager.setting.set('Comfy.VueNodes.Enabled', args[0]);", on)
        return bool(self.call(HAS_VUE_NODES)) == on

    def tabs(self) -> int:
        """How many workflows are open in tabs; 0 where the page has none."""
        return len(self.driver.find_elements(By.CSS_SELECTOR, TAB))

    def go_to_tab(self, index: int) -> None:
        """Bring a tab to the front."""
        before = self.call("return app.graph.id;")
        self.driver.find_elements(By.CSS_SELECTOR, TAB)[index].click()
        self.wait_until(lambda: self.call("return app.graph.id;") != before, "another tab")
        time.sleep(0.5)

    def screenshot(self, path: Path, fit: bool = True) -> Path:
        """Save a PNG of the page without dialogs; `fit` brings the whole graph into view."""
        self.driver.find_element(By.TAG_NAME, "body").send_keys(Keys.ESCAPE)
        if fit:
            self.call(FIT)
        time.sleep(1.0)  # the canvas is drawn by the page's own clock
        path.parent.mkdir(parents=True, exist_ok=True)
        if not self.driver.save_screenshot(str(path)):
            raise OSError(f"no screenshot could be written to {path}")
        return path

    def console(self) -> str:
        """Warnings and errors that the page has printed since the last call."""
        entries = self.driver.get_log("browser")
        return "\n".join(f"{entry['level']}: {entry['message']}" for entry in entries)

    def _is_ready(self) -> bool:
        try:
            return bool(self.driver.execute_script(IS_READY))
        except WebDriverException:
            return False


def find_browser() -> tuple[str, str]:
    """The paths of chromium and its driver.

    Raises:
        BrowserNotFound: one of them is not on PATH.
    """
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        raise BrowserNotFound(
            "the browser test needs chromium and chromedriver on PATH; "
            "on Debian: apt-get install chromium chromium-driver"
        )
    return browser, driver


def open_chromium(profile: Path, size: tuple[int, int]) -> webdriver.Chrome:
    """A headless chromium with an empty profile; nothing is downloaded."""
    browser, driver = find_browser()
    options = Options()
    options.binary_location = browser
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))
