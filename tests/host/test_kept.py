"""What a transfer keeps between two runs of a graph, and that the host gets it back."""

import itertools

import pytest
import torch
from safetensors.torch import load_file

from .prompts import PromptBuilder, out

pytestmark = pytest.mark.host

B = "emoji_b.safetensors"
_salt = itertools.count()


def run(client, comfy, prefix, **choices):
    """A graph's result, and the bytes that are kept after it."""
    graph = PromptBuilder()
    lora = graph.transfer(graph.source(), graph.checkpoint(B), **choices)
    graph.save(lora, f"loras/{prefix}")
    asked = graph.node("ProbeKept", salt=next(_salt), after=out(lora, 1))
    done = client.queue(graph.prompt)
    saved = max((comfy.folder / "output" / "loras").glob(f"{prefix}_*.safetensors"))
    return load_file(saved), int(done.of(asked[0])["text"][0])


def kept_without_a_transfer(client):
    graph = PromptBuilder()
    asked = graph.node("ProbeKept", salt=next(_salt))
    return int(client.queue(graph.prompt).of(asked[0])["text"][0])


def test_a_knob_turned_once_more_gives_what_a_fresh_host_gives(client, comfy):
    client.free()
    run(client, comfy, "kept", mode="full", rank=0)
    turned, held = run(client, comfy, "kept", mode="prolora", rank=4, threshold=0.85)
    client.free()
    afresh, _ = run(client, comfy, "afresh", mode="prolora", rank=4, threshold=0.85)
    assert held > 1_000_000
    assert turned.keys() == afresh.keys()
    assert all(torch.equal(turned[key], afresh[key]) for key in afresh)


def test_the_host_gets_it_back(client, comfy):
    run(client, comfy, "kept")
    _, held = run(client, comfy, "kept", threshold=0.7)
    assert held > 1_000_000
    client.free(
        unload_models=True, free_memory=False
    )  # the GPU's memory: what is kept is not there
    assert run(client, comfy, "kept", threshold=0.6)[1] == held
    client.free(unload_models=False, free_memory=True)
    assert kept_without_a_transfer(client) == 0


def test_a_graph_without_the_node_gets_it_back(client, comfy):
    assert run(client, comfy, "kept")[1] > 1_000_000
    assert kept_without_a_transfer(client) == 0
