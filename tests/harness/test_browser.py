"""Our conversion of a graph against the one that the real page makes of it."""

import pytest

from comfy_harness.graph import prompt_differences, to_prompt

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def page(comfy):
    # Imported here: selenium is installed for the browser tests alone.
    from comfy_harness.browser import ComfyPage

    with ComfyPage(comfy.url) as page:
        yield page


def node(number, kind, values=(), inputs=(), outputs=(), mode=0):
    return {
        "id": number,
        "type": kind,
        "pos": [50 + 320 * (number % 5), 80 + 320 * (number // 5)],
        "size": [280, 260],
        "flags": {},
        "order": number,
        "mode": mode,
        "inputs": [
            {"name": name, "type": kind, "link": link, **({"widget": {"name": name}} if w else {})}
            for name, kind, link, w in inputs
        ],
        "outputs": [
            {"name": kind, "type": kind, "links": list(links), "slot_index": i}
            for i, (kind, links) in enumerate(outputs)
        ],
        "properties": {},
        "widgets_values": list(values),
    }


@pytest.fixture
def graph():
    """A sampler behind a reroute, a bypassed LoRA and a primitive, with a note beside it."""
    names = ("MODEL", "CLIP", "VAE")
    loader = node(1, "CheckpointLoaderSimple", ["a.safetensors"])
    loader["outputs"] = node(1, "", outputs=zip(names, ([1], [2], []), strict=True))["outputs"]
    lora = node(
        2,
        "LoraLoader",
        ["b.safetensors", 0.5, 0.25],
        [("model", "MODEL", 1, False), ("clip", "CLIP", 2, False)],
        [("MODEL", [3]), ("CLIP", [4, 5])],
        mode=4,
    )
    reroute = node(3, "Reroute", [], [("", "*", 3, False)], [("MODEL", [6])])
    text = node(
        4, "CLIPTextEncode", ["a red fox"], [("clip", "CLIP", 4, False)], [("CONDITIONING", [7])]
    )
    negative = node(
        5, "CLIPTextEncode", [""], [("clip", "CLIP", 5, False)], [("CONDITIONING", [8])]
    )
    primitive = node(6, "PrimitiveNode", [17, "fixed"], [], [("INT", [9])])
    primitive["outputs"][0]["widget"] = {"name": "steps"}
    latent = node(7, "EmptyLatentImage", [256, 128, 2], [], [("LATENT", [10])])
    sampler = node(
        8,
        "KSampler",
        # 17 like the primitive: a page saves both alike, and that of 2024 reads this one.
        [1234, "fixed", 17, 6.5, "euler", "karras", 0.75],
        [
            ("model", "MODEL", 6, False),
            ("positive", "CONDITIONING", 7, False),
            ("negative", "CONDITIONING", 8, False),
            ("latent_image", "LATENT", 10, False),
            ("steps", "INT", 9, True),
        ],
        [("LATENT", [11])],
    )
    save = node(9, "SaveLatent", ["latents/fox"], [("samples", "LATENT", 11, False)])
    picture = node(10, "LoadImage", ["fox.png", "image"], [], [("IMAGE", [12]), ("MASK", [])])
    muted = node(11, "PreviewImage", [], [("images", "IMAGE", 12, False)], mode=2)
    note = node(12, "Note", ["what this does"])
    return {
        "last_node_id": 12,
        "last_link_id": 12,
        "nodes": [
            *(loader, lora, reroute, text, negative, primitive),
            *(latent, sampler, save, picture, muted, note),
        ],
        "links": [
            [1, 1, 0, 2, 0, "MODEL"],
            [2, 1, 1, 2, 1, "CLIP"],
            [3, 2, 0, 3, 0, "*"],
            [4, 2, 1, 4, 0, "CLIP"],
            [5, 2, 1, 5, 0, "CLIP"],
            [6, 3, 0, 8, 0, "MODEL"],
            [7, 4, 0, 8, 1, "CONDITIONING"],
            [8, 5, 0, 8, 2, "CONDITIONING"],
            [9, 6, 0, 8, 4, "INT"],
            [10, 7, 0, 8, 3, "LATENT"],
            [11, 8, 0, 9, 0, "LATENT"],
            [12, 10, 0, 11, 0, "IMAGE"],
        ],
        "groups": [],
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def test_the_page_and_the_converter_agree(page, client, graph):
    info = client.object_info()
    page.load(graph)
    own = to_prompt(graph, info)
    assert own["8"]["inputs"]["model"] == ["1", 0]
    assert own["8"]["inputs"]["steps"] == 17
    assert prompt_differences(page.prompt(), own, info) == []


def test_they_agree_on_the_file_that_the_page_saves(page, client, graph):
    info = client.object_info()
    page.load(graph)
    assert prompt_differences(page.prompt(), to_prompt(page.saved_graph(), info), info) == []


def test_a_difference_is_seen(page, client, graph):
    info = client.object_info()
    page.load(graph)
    own = to_prompt(graph, info)
    own["7"]["inputs"]["width"] = 255
    expected = "node 7 (EmptyLatentImage), width: page 256, ours 255"
    assert prompt_differences(page.prompt(), own, info) == [expected]


def test_a_node_without_class_is_red(page, graph, tmp_path):
    known = {node["id"]: node["known"] for node in (page.load(graph), page.red_nodes())[1]}
    assert all(known.values())  # the newer page marks the absent checkpoint and picture
    graph["nodes"].append(node(99, "NoSuchNode"))
    page.load(graph)
    (absent,) = [red for red in page.red_nodes() if not red["known"]]
    assert absent == {"id": "99", "type": "NoSuchNode", "known": False}
    assert page.screenshot(tmp_path / "page.png").stat().st_size > 10_000
