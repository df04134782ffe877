"""What a person reads on the nodes: results that stay, progress, errors, a report's picture."""

import re
from collections.abc import Iterator

import pytest

from comfy_harness.browser import ComfyPage
from comfy_harness.server import ComfyServer
from tests.host.small_sd15 import write_small_sd15

from .graphs import graph, said

pytestmark = pytest.mark.browser

CANVASES = ["canvas", "nodes_2"]
SAVED = "saved to output/loras/my_style_moved_00"
MOVED = "8 of 8 modules transferred: 8 moved; similarity: "
TRANSFER, SAVE, REPORT = 4, 6, 7  # nodes of Transfer a LoRA
RECORD, MOVE = 8, 10  # nodes of Record and refine
LOAD, PICTURE = 3, 9  # nodes of Load a LoRA for this model


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ComfyServer]:
    folder = tmp_path_factory.mktemp("results")
    for place in ("checkpoints", "loras"):
        (folder / "models" / place).mkdir(parents=True)
    write_small_sd15(folder / "models")
    with ComfyServer(folder) as running:
        yield running


@pytest.fixture(params=CANVASES)
def page(server, request) -> Iterator:
    with ComfyPage(server.url) as opened:
        if not opened.use_vue_nodes(request.param == "nodes_2"):
            pytest.skip("this page has one canvas")
        yield opened
        if opened.is_busy():
            opened.cancel()
            opened.wait_until(lambda: not opened.is_busy(), "the end of the job")


def test_results_stay(server, page, tmp_path):
    page.load(graph(server, "Transfer a LoRA", ProLoRATransfer={"threshold": 0.6}))
    assert said(page, TRANSFER) == said(page, SAVE) == ""
    sent = page.prompt()
    page.run()
    moved, saved = said(page, TRANSFER), said(page, SAVE)
    assert moved.startswith(MOVED) and "threshold 0.6" in moved
    assert saved.startswith(SAVED)
    page.screenshot(tmp_path / "results.png")

    page.wait_until(lambda: page.prompt() == sent, "the same prompt: a result is no input")
    page.run()  # from the cache
    assert (said(page, TRANSFER), said(page, SAVE)) == (moved, saved)
    page.reload()
    page.wait_until(lambda: page.texts(TRANSFER) != [], "the graph after F5")
    assert (said(page, TRANSFER), said(page, SAVE)) == (moved, saved)


def test_a_result_is_no_value_of_a_saved_graph(server, page):
    before = graph(server, "Transfer a LoRA")
    page.load(before)
    page.run()
    assert said(page, TRANSFER).startswith(MOVED)
    nodes = {node["id"]: node for node in page.saved_graph()["nodes"]}
    assert nodes[TRANSFER]["widgets_values"] == [0.5, 0, "auto", 0.8, True, "", 0.0]
    assert len(nodes[SAVE]["widgets_values"]) == 3
    page.load(page.saved_graph())  # as a file that was saved and opened again
    assert said(page, TRANSFER).startswith(MOVED)


def test_progress_until_cancel(server, page, tmp_path):
    page.load(graph(server, "Record and refine"))
    page.queue()
    page.wait_until(lambda: "left" in said(page, RECORD), "the time left")
    page.screenshot(tmp_path / "progress.png")
    assert re.match(r"\d+ of \d+, \d+ (s|min) left\nsampling", said(page, RECORD))
    page.cancel()
    page.wait_until(lambda: not page.is_busy(), "the end of the job")
    page.wait_until(lambda: said(page, RECORD) == "", "no progress after Cancel", 5)


def test_a_tab_in_front_of_the_one_that_runs(server, page):
    """The same graph in both: its nodes have the same ids."""
    if page.tabs() == 0:
        pytest.skip("this page has no tabs")
    page.load(graph(server, "Record and refine", ProLoRARecord={"samples": 4, "steps": 4}))
    page.queue()
    page.wait_until(lambda: said(page, RECORD) != "", "progress")
    page.load(graph(server, "Record and refine"))
    other = page.tabs() - 1
    while page.is_busy():
        assert said(page, RECORD) == said(page, MOVE) == ""
    assert said(page, RECORD) == said(page, MOVE) == ""
    page.go_to_tab(other - 1)
    page.wait_until(lambda: said(page, RECORD) != "", "the result of the other tab")
    assert said(page, RECORD).startswith("8 of 8 modules heard")
    page.go_to_tab(other)
    assert said(page, RECORD) == said(page, MOVE) == ""
    page.go_to_tab(other - 1)
    page.reload()
    page.wait_until(lambda: page.texts(RECORD) != [], "the graph after F5")
    assert said(page, RECORD).startswith("8 of 8 modules heard")


def test_an_error_says_its_sentence(server, page, tmp_path):
    page.load(graph(server, "Transfer a LoRA", ProLoRASave={"filename_prefix": "../../outside"}))
    page.queue()
    sentence = "leads out of ComfyUI's output folder. Nothing was written."
    page.wait_until(lambda: sentence in page.messages(), "the sentence")
    page.screenshot(tmp_path / "error.png")
    first = page.messages().partition(sentence)[0]
    assert "prolora.errors" not in first and ".py" not in first


def test_the_picture_of_a_report(server, page, tmp_path):
    page.load(graph(server, "Transfer a LoRA"))
    page.run()
    page.wait_until(lambda: page.pictures(REPORT) != [], "the picture", 10)
    page.screenshot(tmp_path / "report.png")
    ((width, height),) = page.pictures(REPORT)
    assert min(width, height) > 300
    assert said(page, REPORT).startswith(MOVED)


def test_the_one_node(server, page, tmp_path):
    """The verdict beside the picture that was sampled, before and after a reload."""
    page.load(graph(server, "Load a LoRA for this model"))
    assert said(page, LOAD) == ""
    page.run()
    verdict = said(page, LOAD)
    assert verdict.startswith(MOVED)
    page.texts(PICTURE)  # brings the node into view
    page.wait_until(lambda: page.pictures(PICTURE) == [(64, 64)], "the picture", 10)
    page.screenshot(tmp_path / "one_node.png")
    page.reload()
    page.wait_until(lambda: page.texts(LOAD) != [], "the graph after F5")
    assert said(page, LOAD) == verdict
