"""Cancel in a host at messages of progress of every node that works: the next prompt is whole."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
from safetensors.numpy import load_file

from comfy_harness.client import PromptInterrupted
from comfy_harness.server import ComfyServer
from tests.host.checks import same
from tests.host.prompts import PromptBuilder

from .held import held_by
from .hosts import host_in, version_of

pytestmark = pytest.mark.host

A, B, PRUNED = "emoji_a.safetensors", "emoji_b.safetensors", "emoji_a_pruned.safetensors"
LORA = "emoji_style_lora.safetensors"
MOMENTS = 15  # of each node, spread over all of its messages
AT_REST = 256 << 20  # see test_one_host.py


@dataclass(frozen=True)
class Stage:
    """A prompt that saves a LoRA, and the kinds of nodes to cancel in it."""

    build: Callable[[PromptBuilder], list]
    nodes: tuple[str, ...]


def transferred(graph: PromptBuilder) -> list:
    return graph.transfer(
        graph.source(LORA), graph.node("EmojiLoader", ckpt_name=PRUNED), threshold=0.0
    )


def listened(graph: PromptBuilder) -> list:
    source, target = graph.source(LORA), graph.checkpoint(B)
    recording = graph.record(source, graph.checkpoint(A))
    moved = graph.transfer(source, target, mode="auto", recording=recording)
    return graph.refine(target, moved, recording)


def measured(graph: PromptBuilder) -> list:
    model = graph.node("EmojiLoader", ckpt_name=PRUNED)
    node = graph.node("ProLoRASimilarity", model=model, source_checkpoint=A, subspace_energy=0.8)
    graph.node("PreviewImage", images=node)
    return graph.transfer(graph.source(LORA), model)


def stacked(graph: PromptBuilder) -> list:
    node = graph.stack(graph.checkpoint(B), f"{LORA} 0.5", cache_gb=0)
    graph.latents(node, "cancelled", "cat")
    return graph.transfer(graph.source(LORA), graph.checkpoint(B))


def one_node(graph: PromptBuilder) -> list:
    node = graph.load_for_model(graph.checkpoint(B), LORA, cache_gb=0)
    graph.latents(node, "cancelled", "cat")
    return graph.transfer(graph.source(LORA), graph.checkpoint(B))


STAGES = {
    "transfer, save": Stage(transferred, ("ProLoRATransfer", "ProLoRASave")),
    "record, calibrate, refine": Stage(
        listened, ("ProLoRARecord", "ProLoRATransfer", "ProLoRARefine")
    ),
    "similarity": Stage(measured, ("ProLoRASimilarity",)),
    "extract": Stage(lambda graph: graph.extract(A, B, rank=4), ("ProLoRAExtract",)),
    "stack": Stage(stacked, ("ProLoRAStack",)),
    "one node": Stage(one_node, ("ProLoRALoadForModel",)),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ComfyServer]:
    with host_in(tmp_path_factory.mktemp("comfy")) as found:
        yield found


class Run:
    """Runs the prompt of a stage, from the beginning."""

    def __init__(self, server: ComfyServer, stage: Stage) -> None:
        self.server, self.client, self.stage = server, server.client(), stage

    def prompt(self) -> PromptBuilder:
        graph = PromptBuilder()
        graph.save(self.stage.build(graph), "loras/cancelled")
        return graph

    def whole(self, look=None) -> dict:
        self.client.free()
        self.client.queue(self.prompt().prompt, look)
        (path,) = (self.server.folder / "output" / "loras").glob("cancelled_*.safetensors")
        found = load_file(path)
        path.unlink()
        return found

    def cancelled(self, kind: str, message: int) -> bool:
        """At the message of that number of a node; whether it was in time."""
        seen = 0

        def look(progress) -> None:
            nonlocal seen
            seen += progress.node_type == kind
            if seen == message and progress.node_type == kind:
                self.client.interrupt()

        self.client.free()
        try:
            self.client.queue(self.prompt().prompt, look)
        except PromptInterrupted:
            return True
        return False

    def threads_left(self) -> str:
        graph = PromptBuilder()
        node = graph.node("ProbeThreads", salt=id(graph) % 2**30)
        return self.client.queue(graph.prompt).of(node[0])["text"][1]


@pytest.mark.parametrize("name", STAGES)
def test_cancel_at_messages(server, tell, times, name):
    run, messages, stopped, tried = Run(server, STAGES[name]), Counter(), 0, 0
    wanted = run.whole(lambda progress: messages.update([progress.node_type]))
    before, loras = held_by(server.pid), server.folder / "output" / "loras"
    for kind in run.stage.nodes:
        count, moments = messages[kind], times(MOMENTS)
        chosen = sorted({1 + count * i // moments for i in range(moments)})
        for number, message in enumerate(chosen):
            stopped += run.cancelled(kind, message)
            tried += 1
            left = [path.name for path in loras.iterdir()]
            assert all(path.endswith(".safetensors") for path in left)  # of one that was too late
            for path in loras.glob("cancelled_*"):
                path.unlink()
            assert run.threads_left() == ""
            if number % 5 == 4 or message == chosen[-1]:
                assert same(run.whole(), wanted)
    now = held_by(server.pid)
    assert now.children == before.children and len(now.files) <= len(before.files) + 2
    assert now.memory - before.memory < AT_REST
    assert stopped >= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("prolora")]
    nodes = ", ".join(f"{kind} ({messages[kind]} messages)" for kind in run.stage.nodes)
    grown = (now.memory - before.memory) / 2**20
    found = f"{stopped} stopped; in {nodes}; next prompts the same bits; {grown:+.0f} MB at rest"
    tell("memory", f"Cancel in a host: {name}", tried, found, version_of(run.client))
