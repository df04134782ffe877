"""Markup in a stranger's file is text on the page: in what a node says, and in an error."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from comfy_harness.browser import ComfyPage
from comfy_harness.server import ComfyServer
from tests.host.hostile_files import MARKUP, with_keys, with_metadata
from tests.host.small_sd15 import LORA, write_small_sd15

from .graphs import graph, said

pytestmark = pytest.mark.browser

LOAD, TRANSFER = 2, 4  # nodes of Transfer a LoRA
NAMED = "<img src=x onerror=document.title='hacked'>.safetensors"
BROKEN = "broken.safetensors"
# What the markup would have made of the page.
MADE = """
const pictures = document.querySelectorAll("img[src='x'], img[onerror]");
return [document.title, pictures.length];
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ComfyServer]:
    folder = tmp_path_factory.mktemp("hostile")
    loras: Path = folder / "models" / "loras"
    for place in ("checkpoints", "loras"):
        (folder / "models" / place).mkdir(parents=True)
    write_small_sd15(folder / "models")
    with_metadata(loras / LORA, MARKUP, loras / "metadata.safetensors")
    with_keys(loras / LORA, MARKUP, loras / "keys.safetensors")
    (loras / NAMED).hardlink_to(loras / LORA)
    save_file({f"{MARKUP}.lora_up.weight": torch.ones(4, 2)}, loras / BROKEN)
    with ComfyServer(folder) as running:
        yield running


@pytest.fixture(params=["canvas", "nodes_2"])
def page(server, request) -> Iterator[ComfyPage]:
    with ComfyPage(server.url) as opened:
        if not opened.use_vue_nodes(request.param == "nodes_2"):
            pytest.skip("this page has one canvas")
        yield opened


def is_untouched(page: ComfyPage) -> bool:
    title, pictures = page.call(MADE)
    return "hacked" not in title and not pictures


@pytest.mark.parametrize("name", ["metadata.safetensors", "keys.safetensors", NAMED])
def test_markup_in_a_lora_is_text(server, page, name):
    page.load(graph(server, "Transfer a LoRA", ProLoRALoadSource={"lora_name": name}))
    page.run()
    page.wait_until(lambda: said(page, TRANSFER) != "", "what the transfer says")
    shown = said(page, LOAD) + said(page, TRANSFER)
    assert "<img src=x" in shown
    assert is_untouched(page)


def test_markup_in_an_error_is_text(server, page, tmp_path):
    page.load(graph(server, "Transfer a LoRA", ProLoRALoadSource={"lora_name": BROKEN}))
    page.queue()
    page.wait_until(lambda: "onerror" in page.messages(), "the error")
    page.screenshot(tmp_path / "error.png")
    assert is_untouched(page)
