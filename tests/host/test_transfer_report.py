"""Transfer Report on a real host: the picture, the table, the file, and who has a report."""

import io
import json

import pytest
from PIL import Image

from .checks import fails
from .prompts import PromptBuilder

pytestmark = pytest.mark.host

B = "emoji_b.safetensors"


def report(graph: PromptBuilder, lora: list, prefix: str = "") -> list:
    return graph.node("ProLoRAReport", lora=lora, filename_prefix=prefix)


def test_the_report_of_a_transfer(client, comfy, graph):
    lora = graph.transfer(graph.source(), graph.checkpoint(B))
    node = report(graph, lora, "reports/emoji")
    graph.node("PreviewImage", images=node)
    done = client.queue(graph.prompt)
    (shown,) = done.of(node[0])["images"]
    assert shown["type"] == "temp"
    picture = Image.open(io.BytesIO(client.image(shown)))
    assert min(picture.size) > 300
    (image,) = (i for i in done.images() if i != shown)  # the output, drawn by the host itself
    assert Image.open(io.BytesIO(client.image(image))).size == picture.size

    text = done.of(node[0])["text"][0]
    assert text.startswith("saved to output/reports/emoji_0000")
    assert "21 of 21 modules transferred: " in text
    (path,) = (comfy.folder / "output" / "reports").glob("emoji_*.json")
    assert text.splitlines()[0] == f"saved to output/reports/{path.name}"
    rows = json.loads(path.read_text(encoding="utf-8"))["rows"]
    assert len({row["name"] for row in rows}) == 21


def test_no_file_without_a_name(client, comfy, graph):
    before = sorted((comfy.folder / "output").rglob("*.json"))
    node = report(graph, graph.transfer(graph.source(), graph.checkpoint(B), threshold=0.6))
    text = client.queue(graph.prompt).of(node[0])["text"][0]
    assert text.startswith("21 of 21 modules transferred")
    assert sorted((comfy.folder / "output").rglob("*.json")) == before


def test_a_refined_lora_keeps_its_report(client, graph):
    model = graph.checkpoint(B)
    source = graph.source()
    recording = graph.record(source, graph.checkpoint("emoji_a.safetensors"))
    moved = graph.transfer(source, model)
    node = report(graph, graph.refine(model, moved, recording))
    assert "21 of 21 modules" in client.queue(graph.prompt).of(node[0])["text"][0]


def test_a_lora_of_another_node_has_none(client, graph):
    moved = graph.transfer(graph.source(), graph.checkpoint(B))
    node = report(graph, graph.node("ProbeLoraModel", lora=moved))
    fails(client, graph, node, "has no report", "Connect the lora of ProLoRA Transfer")


def test_a_name_that_leads_out_of_the_output_folder(client, graph):
    node = report(graph, graph.transfer(graph.source(), graph.checkpoint(B)), "../../outside")
    fails(client, graph, node, "leads out of ComfyUI's output folder")
