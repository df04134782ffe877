"""What no page sends, a workflow through the API may: each gets a sentence; see the campaign."""

import json
import os

import pytest
from safetensors import safe_open

from comfy_harness.client import PromptFailed

from .checks import fails, steering_lines, trespasses
from .hostile_files import TEXTS, with_metadata
from .prompts import PromptBuilder, out

pytestmark = pytest.mark.host

B, LORA = "emoji_b.safetensors", "emoji_style_lora.safetensors"
NAN, INFINITE = float("nan"), float("inf")


def linked(graph: PromptBuilder, value: object) -> list:
    """A value by a link that every input takes."""
    return graph.node("ProbeAnything", text=json.dumps(value))


def test_the_probe_of_trespasses_sees_them(client):
    """The whole suite ends with its question; see conftest."""
    assert trespasses(client, "import socket; socket.socket()")
    assert trespasses(client, "open('/etc/passwd').close()")
    assert trespasses(client, "import pickle; pickle.loads(pickle.dumps(print))")
    assert trespasses(client, "import subprocess; subprocess.run(['true'])")


@pytest.mark.parametrize("strength", [NAN, "nan", [], {"a": 1}, None, 1e9])
def test_a_strength_that_is_no_number(client, graph, strength):
    model = graph.checkpoint(B)
    node = graph.load_for_model(model, LORA, strength_model=linked(graph, strength))
    graph.node("ProbeFingerprint", model=node)
    fails(client, graph, node, "strength_model is ", "Choose a number from -100.0 to 100.0.")


@pytest.mark.parametrize("threshold", [NAN, INFINITE, -INFINITE, 10**400])
def test_a_threshold_that_is_no_number(client, graph, threshold):
    node = graph.transfer(graph.source(), graph.checkpoint(B), threshold=linked(graph, threshold))
    graph.save(node, "loras/hostile")
    fails(client, graph, node, "threshold is ", "Choose a number from 0.0 to 1.0.")


@pytest.mark.parametrize("given", [None, 5, "x", {"samples": 1}, [[1, {}]]])
def test_a_link_that_gives_another_thing(client, graph, given):
    """As a node of another pack that switches between links does, where none is connected."""
    node = graph.transfer(graph.source(), linked(graph, given))
    graph.save(node, "loras/hostile")
    fails(client, graph, node, "model was given ", "takes a MODEL", "Connect")


def test_an_optional_link_that_gives_nothing(client, graph):
    node = graph.transfer(graph.source(), graph.checkpoint(B), clip=linked(graph, None))
    graph.save(node, "loras/hostile")
    client.queue(graph.prompt)


@pytest.mark.parametrize("name", ["../../x", "/etc/passwd", "a\0b", "x" * 5000, "\ud800"])
def test_names_that_lead_nowhere(client, graph, name):
    recording = graph.node("ProLoRALoadRecording", recording_name=linked(graph, name))
    graph.node("PreviewAny", source=out(recording, 1))
    fails(client, graph, recording, "is not in ComfyUI's")
    graph = PromptBuilder()
    source = graph.source(linked(graph, name))
    graph.node("PreviewAny", source=out(source, 1))
    fails(client, graph, source, "is not in ComfyUI's loras folder")


@pytest.mark.parametrize("prefix", ["a\0b", "a\x1b[31m", "a\nb", "\u202eb", "x" * 300, "x/" * 3000])
def test_a_prefix_that_names_no_file(client, comfy, graph, prefix):
    saved = graph.save(graph.transfer(graph.source(), graph.checkpoint(B)), prefix)
    fails(client, graph, saved, "The filename_prefix", "Nothing was written")


def test_a_prefix_that_ends_with_a_slash_is_counted(client, comfy, graph):
    moved = graph.transfer(graph.source(), graph.checkpoint(B))
    graph.save(moved, "loras/slash/", "fp16")
    graph.save(moved, "loras/slash/", "fp32")
    client.queue(graph.prompt)
    assert len(list((comfy.folder / "output" / "loras").glob("slash*.safetensors"))) == 2


def test_a_megabyte_of_text_and_a_long_sentence(client, graph):
    node = graph.stack(graph.checkpoint(B), "y" * 1_000_000)
    graph.node("ProbeFingerprint", model=node)
    with pytest.raises(PromptFailed) as error:
        client.queue(graph.prompt)
    assert error.value.exception_type == "ProLoRAError" and len(error.value.message) < 4000
    assert error.value.message.endswith("in the loras folder. Is the name right?")


def test_a_pipe_instead_of_a_lora_is_not_waited_for(client, comfy, graph):
    folder = comfy.folder / "models" / "loras"
    os.mkfifo(folder / "pipe.safetensors")
    source = graph.source("pipe.safetensors")
    graph.node("PreviewAny", source=out(source, 1))
    fails(client, graph, source, "pipe.safetensors")


def test_an_unrelated_value_where_a_link_belongs_is_no_file_name(client, graph):
    """What the loader is given beside its inputs, no host looks at; the names of files do."""
    model = graph.checkpoint(B)
    for number, given in enumerate(([], [[1], 0], "<b>.x", {"a": 1})):
        graph.prompt[model[0]]["inputs"]["model"] = given
        graph.save(graph.transfer(graph.source(), model), f"loras/unrelated{number}")
    client.queue(graph.prompt)


@pytest.mark.parametrize("label", ["markup", "colours", "lines"])
def test_texts_that_steer(client, comfy, graph, label):
    loras, text = comfy.folder / "models" / "loras", TEXTS[label]
    with_metadata(loras / LORA, text, loras / f"steers_{label}.safetensors")
    source = graph.source(f"steers_{label}.safetensors")
    graph.save(graph.transfer(source, graph.checkpoint(B)), f"loras/steers_{label}")
    since = len(comfy.log_text())
    (info,) = client.queue(graph.prompt).of(source[0])["text"]
    assert all(letter.isprintable() or letter == "\n" for letter in info)
    assert not steering_lines(comfy.log_text()[since:])
    (path,) = (comfy.folder / "output" / "loras").glob(f"steers_{label}_*.safetensors")
    with safe_open(path, "np") as saved:
        assert saved.metadata()["modelspec.title"] == text  # it is a stranger's, and stays
