"""The shipped graphs as files: titles, layout, wires, the addresses of models, their pictures.

Only what a file tells is tested here; tests/host runs the graphs, tests/browser opens them.
"""

import json
import re
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
GRAPHS = sorted((ROOT / "workflows").glob("*.json"))
TITLE_BAR = 30  # pixels above a node's position
# Where a model of a loader lies, if not with the checkpoints.
FOLDERS = {"UNETLoader": "diffusion_models", "CLIPLoader": "text_encoders", "VAELoader": "vae"}
OF_THE_USER = {
    "my_style.safetensors",
    "output/recordings/my_style_00001_.recording.safetensors",
}
VERSION = re.compile(r"\d+\.\d+\.\d+")

every_graph = pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)


def graph_of(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def frame(node: dict) -> tuple[float, float, float, float]:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_BAR, x + width, y + height


def box(group: dict) -> tuple[float, float, float, float]:
    x, y, width, height = group["bounding"]
    return x, y, x + width, y + height


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def folder_of(kind: str, name: str) -> str:
    return FOLDERS.get(kind, "diffusion_models" if name.startswith("wan") else "checkpoints")


def inside(a, b) -> bool:
    return b[0] <= a[0] and b[1] <= a[1] and a[2] <= b[2] and a[3] <= b[3]


@every_graph
def test_titles_are_for_people(path):
    nodes = graph_of(path)["nodes"]
    assert re.fullmatch(r"[A-Z][a-z]*( [A-Za-z]+)*", path.stem)  # the list of templates shows it
    assert all(node["title"] for node in nodes)
    titles = [node["title"] for node in nodes]
    assert len(set(titles)) == len(titles)


@every_graph
def test_a_short_note_comes_first(path):
    notes = [node for node in graph_of(path)["nodes"] if node["type"] == "Note"]
    assert len(notes) == 1
    assert 100 < len(notes[0]["widgets_values"][0]) < 1200


@every_graph
def test_no_node_lies_on_another(path):
    nodes = graph_of(path)["nodes"]
    found = [
        (a["title"], b["title"]) for a, b in combinations(nodes, 2) if overlap(frame(a), frame(b))
    ]
    assert found == []


@every_graph
def test_groups_hold_whole_nodes_and_lie_apart(path):
    graph = graph_of(path)
    assert graph["groups"]
    for a, b in combinations(graph["groups"], 2):
        assert not overlap(box(a), box(b)), (a["title"], b["title"])
    for group in graph["groups"]:
        touched = [node for node in graph["nodes"] if overlap(frame(node), box(group))]
        assert touched
        assert all(inside(frame(node), box(group)) for node in touched), group["title"]


@every_graph
def test_every_wire_runs_to_the_right(path):
    graph = graph_of(path)
    nodes = {node["id"]: node for node in graph["nodes"]}
    backwards = [
        (nodes[link[1]]["title"], nodes[link[3]]["title"])
        for link in graph["links"]
        if frame(nodes[link[1]])[2] > frame(nodes[link[3]])[0]
    ]
    assert backwards == []


@every_graph
def test_both_ends_of_a_wire_know_it(path):
    graph = graph_of(path)
    nodes = {node["id"]: node for node in graph["nodes"]}
    wires = {link[0]: link for link in graph["links"]}
    into = {
        (socket["link"], node["id"], slot)
        for node in graph["nodes"]
        for slot, socket in enumerate(node["inputs"])
        if socket["link"] is not None
    }
    assert into == {(number, link[3], link[4]) for number, link in wires.items()}
    for number, (_, origin, slot, *_) in wires.items():
        assert number in nodes[origin]["outputs"][slot]["links"]


@every_graph
def test_compared_columns_have_one_prompt(path):
    """One node that prompts come from, or that writes one."""
    nodes = graph_of(path)["nodes"]
    written = [
        node
        for node in nodes
        if node["type"] == "CLIPTextEncode"
        and "prompt" in node["title"].lower()
        and not any(socket["name"] == "text" for socket in node["inputs"])
    ]
    positive = [node for node in written if not node["title"].startswith("Negative")]
    primitive = [node for node in nodes if node["type"] == "PrimitiveNode"]
    pictures = [node for node in nodes if node["type"] in ("SaveImage", "SaveVideo")]
    assert len(positive) + len(primitive) == bool(pictures)


@every_graph
def test_nodes_say_where_they_come_from(path):
    """As the registry has it: the pack's id and a version; models by name, folder and address."""
    for node in graph_of(path)["nodes"]:
        if node["type"] in ("Note", "PrimitiveNode"):
            continue
        properties = node["properties"]
        own = node["type"].startswith("ProLoRA")
        assert properties["cnr_id"] == ("prolora" if own else "comfy-core")
        assert VERSION.fullmatch(properties["ver"])
        for model in properties.get("models", ()):
            assert model["name"] in node["widgets_values"]
            assert model["directory"] == folder_of(node["type"], model["name"])
            assert model["url"].startswith("https://") and model["url"].endswith(model["name"])


def test_every_node_of_the_pack_is_in_a_graph():
    used = {node["type"] for path in GRAPHS for node in graph_of(path)["nodes"]}
    nodes = (ROOT / "nodes" / "__init__.py").read_text(encoding="utf-8")
    assert set(re.findall(r'^    "(\w+)": [A-Z]\w+,$', nodes, re.MULTILINE)) - used == set()


@every_graph
def test_every_checkpoint_has_an_address(path):
    for node in graph_of(path)["nodes"]:
        named = {value for value in node["widgets_values"] if str(value).endswith(".safetensors")}
        listed = {model["name"] for model in node["properties"].get("models", ())}
        assert named - listed <= OF_THE_USER


@every_graph
def test_a_picture_lies_beside(path):
    picture = path.with_suffix(".jpg")
    with Image.open(picture) as image:
        assert image.format == "JPEG"
        assert 300 <= image.width <= 1000
    assert picture.stat().st_size < 60_000
