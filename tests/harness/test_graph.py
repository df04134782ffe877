"""The conversion of saved workflows, against hand-made descriptions of nodes: no host."""

import copy

import pytest

from comfy_harness.graph import GraphError, find_node, to_prompt, widget_slots, with_widget

INFO = {
    "Load": {"input": {"required": {"name": [["a.safetensors", "b.safetensors"]]}}},
    "Sample": {
        "input": {
            "required": {
                "model": ["MODEL"],
                "seed": ["INT", {"default": 0}],
                "steps": ["INT", {"default": 20}],
            },
            "optional": {"note": ["STRING", {"default": "none"}]},
        },
        "display_name": "Sampler",
    },
    "Picture": {
        "input": {
            "required": {"image": [["x.png"], {"image_upload": True}]},
            "optional": {"channel": ["COMBO", {"options": ["red", "alpha"]}]},
        }
    },
    "Pass": {
        "input": {
            "required": {
                "latent": ["LATENT"],
                "model": ["MODEL"],
                "strength": ["FLOAT", {"default": 1.0}],
                "forced": ["INT", {"forceInput": True}],
            }
        }
    },
}


def node(number, kind, values=(), inputs=(), **more):
    return {"id": number, "type": kind, "widgets_values": values, "inputs": list(inputs), **more}


def socket(name, link, kind="MODEL", **more):
    return {"name": name, "type": kind, "link": link, **more}


def graph_of(*nodes, links=()):
    return {"nodes": list(nodes), "links": list(links)}


def test_widgets_wires_and_the_value_after_a_seed():
    graph = graph_of(
        node(1, "Load", ["b.safetensors"]),
        node(2, "Sample", [7, "fixed", 5, "hello"], [socket("model", 1)]),
        links=[[1, 1, 0, 2, 0, "MODEL"]],
    )
    prompt = to_prompt(graph, INFO)
    assert prompt["1"]["inputs"] == {"name": "b.safetensors"}
    assert prompt["2"]["inputs"] == {"model": ["1", 0], "seed": 7, "steps": 5, "note": "hello"}
    assert prompt["2"]["_meta"] == {"title": "Sampler"}


def test_a_seed_may_have_no_control_value():
    assert to_prompt(graph_of(node(1, "Sample", [7, 5])), INFO)["1"]["inputs"] == {
        "seed": 7,
        "steps": 5,
        "note": "none",  # a value that the file lacks is the host's default
    }


def test_widgets_values_by_name():
    graph = graph_of(node(1, "Sample", {"steps": 3, "seed": 9}))
    assert to_prompt(graph, INFO)["1"]["inputs"] == {"seed": 9, "steps": 3, "note": "none"}


def test_the_upload_button_stands_between_required_and_optional():
    graph = graph_of(node(1, "Picture", ["x.png", "image", "alpha"]))
    assert to_prompt(graph, INFO)["1"]["inputs"] == {"image": "x.png", "channel": "alpha"}


def test_an_input_without_widget_takes_no_place():
    assert [slot.name for slot in widget_slots(INFO["Pass"])] == ["strength"]


def test_a_wire_replaces_a_converted_widget():
    steps = socket("steps", 1, "INT", widget={"name": "steps"})
    graph = graph_of(
        node(1, "PrimitiveNode", [12, "fixed"]),
        node(2, "Sample", [7, "fixed", 5, "x"], [steps]),
        links=[[1, 1, 0, 2, 0, "INT"]],
    )
    prompt = to_prompt(graph, INFO)
    assert list(prompt) == ["2"]
    assert prompt["2"]["inputs"]["steps"] == 12


def test_reroutes_and_links_as_objects():
    link = {"origin_slot": 0, "target_slot": 0, "type": "MODEL"}
    graph = graph_of(
        node(1, "Load", ["a.safetensors"]),
        node(3, "Reroute", [], [socket("", 1, "*")]),
        node(2, "Sample", [7, "fixed", 5, "x"], [socket("model", 2)]),
        links=[
            {"id": 1, "origin_id": 1, "target_id": 3, **link},
            {"id": 2, "origin_id": 3, "target_id": 2, **link},
        ],
    )
    assert to_prompt(graph, INFO)["2"]["inputs"]["model"] == ["1", 0]


@pytest.mark.parametrize(("mode", "expected"), [(0, ["3", 0]), (2, None), (4, ["1", 0])])
def test_muted_nodes_vanish_and_bypassed_ones_pass_on(mode, expected):
    sockets = [socket("latent", None, "LATENT"), socket("model", 1), socket("forced", None, "INT")]
    graph = graph_of(
        node(1, "Load", ["a.safetensors"]),
        node(3, "Pass", [0.5], sockets, mode=mode),
        node(2, "Sample", [7, "fixed", 5, "x"], [socket("model", 2)]),
        links=[[1, 1, 0, 3, 1, "MODEL"], [2, 3, 0, 2, 0, "MODEL"]],
    )
    prompt = to_prompt(graph, INFO)
    assert prompt["2"]["inputs"].get("model") == expected
    assert ("3" in prompt) == (mode == 0)


def test_an_unknown_node_is_named_and_a_note_is_not_one():
    graph = graph_of(node(1, "Note", ["read me"]), node(2, "Absent"))
    with pytest.raises(GraphError, match="does not have: Absent"):
        to_prompt(graph, INFO)
    assert to_prompt(graph_of(node(1, "MarkdownNote", ["#"])), INFO) == {}


def test_with_widget_changes_a_copy():
    graph = graph_of(node(1, "Sample", [7, "fixed", 5, "x"], title="Second pass"))
    before = copy.deepcopy(graph)
    changed = with_widget(graph, INFO, "Second pass", "steps", 50)
    assert to_prompt(changed, INFO)["1"]["inputs"]["steps"] == 50
    assert graph == before
    assert with_widget(graph, INFO, 1, "note", "y")["nodes"][0]["widgets_values"][-1] == "y"
    with pytest.raises(GraphError, match="saves no widget 'cfg'"):
        with_widget(graph, INFO, "Sample", "cfg", 1.0)


def test_find_node_wants_exactly_one():
    graph = graph_of(node(1, "Load", title="Base"), node(2, "Load", title="Other"))
    assert find_node(graph, "Other")["id"] == 2
    assert find_node(graph, 1)["id"] == 1
    with pytest.raises(GraphError, match="2 nodes are called 'Load': 1, 2"):
        find_node(graph, "Load")
    with pytest.raises(GraphError, match="no node has"):
        find_node(graph, "Third")
