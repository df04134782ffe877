"""The server and the client against a real ComfyUI."""

import threading
import time

import pytest

from comfy_harness.client import Progress, PromptFailed, PromptInterrupted
from comfy_harness.graph import to_prompt

pytestmark = pytest.mark.host

IMAGE = {
    "1": {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 32, "batch_size": 1, "color": 0},
    },
    "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
}


def image_of(width):
    return {**IMAGE, "1": {**IMAGE["1"], "inputs": {**IMAGE["1"]["inputs"], "width": width}}}


def sleep(seconds):
    return {"1": {"class_type": "ProbeSleep", "inputs": {"seconds": seconds}}}


def test_a_graph_runs_and_what_is_known_is_not_run_again(client):
    seen = []
    first = client.queue(image_of(72), seen.append)
    assert first.executed == ("1", "2")
    assert seen == [Progress("1", "EmptyImage"), Progress("2", "PreviewImage")]
    (shown,) = first.images()
    assert client.image(shown).startswith(b"\x89PNG")
    assert client.queue(image_of(72)).executed == ()
    client.free()


def test_text_outputs(client):
    assert client.queue(sleep(0.01)).texts() == ["slept 0.01 s"]


def test_a_saved_graph_runs(client):
    graph = {
        "nodes": [
            {"id": 5, "type": "EmptyLatentImage", "widgets_values": [64, 64, 1]},
            {
                "id": 6,
                "type": "SaveLatent",
                "inputs": [{"name": "samples", "type": "LATENT", "link": 1}],
                "widgets_values": ["latents/harness"],
            },
        ],
        "links": [[1, 5, 0, 6, 0, "LATENT"]],
    }
    assert client.queue(to_prompt(graph, client.object_info())).of(6)["latents"]


def test_an_unknown_node_is_refused(client):
    with pytest.raises(PromptFailed, match="Nope"):
        client.queue({"1": {"class_type": "Nope", "inputs": {}}})


def test_a_wrong_value_is_refused_with_its_node(client):
    with pytest.raises(PromptFailed, match="width") as caught:
        client.queue(image_of(-5))
    assert (caught.value.node_id, caught.value.node_type) == ("1", "EmptyImage")


def test_one_bad_branch_fails_the_whole_prompt(client):
    with pytest.raises(PromptFailed, match="images"):
        client.queue({**IMAGE, "3": {"class_type": "PreviewImage", "inputs": {}}})


def test_an_error_in_a_node_says_where(client):
    prompt = {"7": {"class_type": "ProbeRaise", "inputs": {"message": "no such module"}}}
    with pytest.raises(PromptFailed, match=r"node 7 \(ProbeRaise\): no such module") as caught:
        client.queue(prompt)
    assert caught.value.exception_type == "ValueError"
    assert "probe_nodes.py" in caught.value.traceback


def test_a_running_prompt_can_be_cancelled(client):
    began = time.monotonic()
    timers = []

    def cancel_soon(_: Progress) -> None:
        timers.append(threading.Timer(0.3, client.interrupt))
        timers[-1].start()

    with pytest.raises(PromptInterrupted):
        client.queue(sleep(30.0), cancel_soon)
    assert time.monotonic() - began < 10
    assert client.queue(sleep(0.02)).texts() == ["slept 0.02 s"]


def test_a_deadline_is_kept(client):
    with pytest.raises(TimeoutError, match="node 1"):
        client.queue(sleep(20.0), timeout=1.0)
    client.interrupt()


def test_the_log_can_be_read(comfy):
    assert "pytorch version" in comfy.log_text()
    assert comfy.is_running()
