"""Threads in the host: Cancel is seen while modules are at work; many may read a MODEL."""

import threading

import pytest

from comfy_harness.client import PromptInterrupted

from .prompts import PromptBuilder

pytestmark = pytest.mark.host


def texts(client, class_type: str, **inputs) -> list[str]:
    graph = PromptBuilder()
    node = graph.node(class_type, **inputs)
    client.free()
    return client.queue(graph.prompt).of(node[0])["text"]


def test_cancel_is_seen_while_modules_are_at_work(client, graph):
    """They end when it is, or after a minute."""
    node = graph.node("ProbeLongModules", salt=0)

    def cancel(progress) -> None:
        if progress.node_id == node[0]:
            threading.Thread(target=client.interrupt).start()

    with pytest.raises(PromptInterrupted):
        client.queue(graph.prompt, cancel)
    seen, left = texts(client, "ProbeThreads", salt=0)
    assert (seen, left) == ("True True", "")


@pytest.mark.parametrize("name", ["emoji_a.safetensors", "emoji_b.safetensors"])
def test_a_model_is_read_by_many_threads(client, graph, name):
    """As a transfer reads it on the CPU; also while LoRAs patch it in place."""
    model = graph.core_lora(graph.checkpoint(name), "emoji_style_lora.safetensors")
    graph.latents(model, "patched_in_place")
    client.queue(graph.prompt)
    probe = graph.node("ProbeReadByMany", model=model)
    count, differ = client.queue(graph.prompt).of(probe[0])["text"]
    assert int(count) > 50 and differ == ""
