"""ProLoRA Similarity in a real graph: its picture, its table, and its pairs used by a transfer."""

import io
import json
import threading

import numpy as np
import pytest
from PIL import Image

from comfy_harness.client import PromptInterrupted
from comfy_harness.hosts import PACK_ROOT
from demo.run import link_model
from prolora import TransferSettings, load_checkpoint
from prolora.comparison.figures import compare
from prolora.comparison.heat_map import draw
from prolora.comparison.text import table

from .checks import fails
from .prompts import PromptBuilder, out

pytestmark = pytest.mark.host

MODELS = PACK_ROOT / "demo" / "models"
A, B, PRUNED = "emoji_a.safetensors", "emoji_b.safetensors", "emoji_a_pruned.safetensors"
FROM_INPUT = "(the connected source_model)"


def compared(graph: PromptBuilder, model: list, source: str = A, **inputs) -> list:
    given = {"source_checkpoint": source, "subspace_energy": 0.8, **inputs}
    return graph.node("ProLoRASimilarity", model=model, **given)


def texts(client, graph: PromptBuilder, *nodes: list) -> list[str]:
    client.free()  # a node that is cached says nothing
    done = client.queue(graph.prompt)
    return [done.of(node[0])["text"][0] for node in nodes]


def test_the_picture_and_the_table_are_those_of_the_core(client, graph):
    node = compared(graph, graph.checkpoint(B))
    shown = graph.node("PreviewImage", images=node)
    said = graph.node("ProbeText", text=out(node, 1))
    client.free()
    done = client.queue(graph.prompt)
    expected = compare(*(load_checkpoint(MODELS / name) for name in (A, B)), TransferSettings())
    (file,) = done.of(shown[0])["images"]
    picture = np.asarray(Image.open(io.BytesIO(client.image(file))).convert("RGB"))
    cells = draw(expected).cells
    assert picture.shape == np.asarray(draw(expected).image).shape
    assert len(cells) == 35
    # The host's model has its modules in another order than the file has them.
    rows = {tuple(line.split()) for line in done.of(said[0])["text"][0].splitlines()}
    differ = rows ^ {tuple(line.split()) for line in table(expected).splitlines()}
    # A host from June 2024 has no names for q, k and v of SD3, so they are measured as one there.
    assert not differ or {row[1].partition(".")[2] for row in differ} == {"attn.qkv"}
    assert "0 of 35 weights below a transfer's threshold 0.5" in done.of(node[0])["text"][0]


def test_models_of_the_graph_are_seen_without_loras(client, graph):
    """Both models with a LoRA on them, from the graph: identical weights all the same."""
    lora = graph.core_lora(graph.checkpoint(A), "emoji_style_lora.safetensors")
    node = compared(graph, lora, FROM_INPUT, source_model=graph.checkpoint(A))
    graph.node("PreviewImage", images=node)
    (summary,) = texts(client, graph, node)
    assert "median similarity 1.000" in summary
    assert "35 are identical" in summary
    assert f"{A} (SD3) compared with {A} (SD3)" in summary


@pytest.mark.parametrize("target", [PRUNED, B])
def test_its_pairs_are_those_of_a_transfer(client, comfy, graph, target):
    """A pruned child's, and those of two models that line up."""
    place = comfy.folder / "models" / "checkpoints" / target
    if not place.exists():
        link_model(MODELS / target, place)
    model = graph.node("EmojiLoader", ckpt_name=target)
    node = compared(graph, model)
    by_itself = graph.transfer(graph.source(), model)
    given = graph.transfer(graph.source(), model, pairs=out(node, 2))
    pairs = graph.node("ProbeText", text=out(node, 2))
    patches = graph.node(
        "ProbePatches", model=graph.apply(model, by_itself), other_model=graph.apply(model, given)
    )
    summary, said, weights = texts(client, graph, given, pairs, patches)
    found = json.loads(said)["pairs"]
    if target == PRUNED:
        assert found["joint_blocks.1"] == "joint_blocks.2"
        assert "as given" in summary
    weights = json.loads(weights)
    assert len(weights) >= 13  # the LoRA has 21 modules, 8 of them in the block that was pruned
    for key, weight in weights.items():
        assert weight["change"] > 0.01, key
        assert weight["difference"] < 1e-6, key


def test_pairs_by_hand(client, graph):
    node = compared(graph, graph.checkpoint(B), pairs='{"joint_blocks.0": "joint_blocks.1"}')
    (said,) = texts(client, graph, graph.node("ProbeText", text=out(node, 2)))
    assert json.loads(said)["pairs"]["joint_blocks.0"] == "joint_blocks.1"


def test_no_source(client, graph):
    node = compared(graph, graph.checkpoint(B), FROM_INPUT)
    graph.node("PreviewImage", images=node)
    fails(client, graph, node, "No source: connect a MODEL to source_model")


def test_cancel_stops_it(client, graph):
    node = compared(graph, graph.checkpoint(B))
    graph.node("PreviewImage", images=node)
    client.free()
    seen = []

    def cancel(progress) -> None:
        if progress.node_id == node[0] and progress.value >= 1:
            if not seen:
                threading.Thread(target=client.interrupt).start()
            seen.append((progress.value, progress.maximum))

    with pytest.raises(PromptInterrupted):
        client.queue(graph.prompt, cancel)
    assert seen[0][1] == max(seen)[1] == 35
    assert max(seen)[0] < 35
