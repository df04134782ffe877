"""Two hundred prompts in one ComfyUI, and Cancel at random moments."""

import contextlib
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_harness.client import PromptInterrupted
from comfy_harness.server import ComfyServer
from demo.run import link_models
from tests.host.probes import NODES
from tests.host.prompts import PromptBuilder
from tests.host.slow_files import write_slow

from .held import Held, growth, held_by

pytestmark = pytest.mark.host

TIMES, CANCELS = 200, 20
ENOUGH = 24 << 20  # bytes: 150 kB a prompt are seen
# Bytes by which the memory of a host at rest goes up and down, as a heap gives back its end.
# If every cancelled job left what it had, it would be ten times as much.
AT_REST = 256 << 20
LORA, B = "emoji_style_lora.safetensors", "emoji_b.safetensors"


@pytest.fixture
def comfy(tmp_path, monkeypatch) -> Iterator[ComfyServer]:
    """A host of its own, with two threads and a folder of its own for temporary files."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    folder = tmp_path / "comfy"
    link_models(folder)
    write_slow(folder / "models")
    with ComfyServer(folder, NODES) as server:
        yield server


def temporary(comfy: ComfyServer) -> set[Path]:
    return set((comfy.folder.parent / "temporary").rglob("*"))


def threads_left(client) -> str:
    graph = PromptBuilder()
    node = graph.node("ProbeThreads", salt=random.getrandbits(30))
    return client.queue(graph.prompt).of(node[0])["text"][1]


def at_rest(comfy: ComfyServer) -> Held:
    """What the host holds when it has nothing to do, and has dropped its models."""
    client = comfy.client()
    for _ in range(2):
        client.free()
        threads_left(client)
    time.sleep(2)  # until the last connection is closed
    return held_by(comfy.pid)


def one_of_each(done: int) -> PromptBuilder:
    """Other settings each time, so that every node runs again; nothing is kept in files."""
    graph = PromptBuilder()
    threshold = 0.1 + 0.7 * done / TIMES
    model = graph.checkpoint(B)
    moved = graph.transfer(graph.source(LORA), model, threshold=threshold)
    graph.latents(graph.apply(model, moved), "moved", "cat")
    stack = graph.stack(model, f"{LORA} 0.5", threshold=threshold, cache_gb=0)
    graph.latents(stack, "stack", "cat")
    if done % 10 == 0:
        graph.node(
            "ProLoRASimilarity",
            model=graph.node("EmojiLoader", ckpt_name="emoji_a_pruned.safetensors"),
            source_checkpoint="emoji_a.safetensors",
            subspace_energy=threshold,
        )
    return graph


def test_two_hundred_prompts(comfy):
    client = comfy.client()

    def job(done: int) -> None:
        client.queue(one_of_each(done).prompt)
        for path in (comfy.folder / "output").glob("*.latent"):
            path.unlink()

    before = temporary(comfy)
    found = growth(comfy.pid, job, TIMES)
    assert found.memory < ENOUGH
    assert found.threads <= 0 and found.files <= 0 and found.children <= 0
    assert temporary(comfy) == before
    assert threads_left(client) == ""


@pytest.mark.parametrize("job", ["transfer", "similarity", "extract", "stack"])
def test_cancel_at_random_moments(comfy, job):
    client, moments, cancelled = comfy.client(), random.Random(job), 0
    source, target = "slow_a.safetensors", "slow_b.safetensors"

    def prompt(number: int) -> PromptBuilder:
        graph = PromptBuilder()
        choice = 0.1 + 0.5 * number / CANCELS
        if job == "transfer":
            lora = graph.source("slow.safetensors", source_checkpoint=source)
            given = {"threshold": 0.0, "subspace_energy": choice}
            graph.save(graph.transfer(lora, graph.checkpoint(target), **given), "loras/cancelled")
        elif job == "stack":
            given = {"source_checkpoint": source, "threshold": choice}
            node = graph.stack(graph.checkpoint(target), "slow", **given)
            graph.node("ProbeStack", lora_stack=[node[0], 2])
        elif job == "similarity":
            model = graph.checkpoint(target)
            given = {"source_checkpoint": source, "subspace_energy": choice}
            node = graph.node("ProLoRASimilarity", model=model, **given)
            graph.node("PreviewImage", images=node)
        else:
            graph.save(graph.extract(source, target, energy=choice, rank=8), "loras/cancelled")
        return graph

    def output() -> set[Path]:
        return {path for path in (comfy.folder / "output").rglob("*") if path.is_file()}

    began = time.monotonic()
    client.queue(prompt(0).prompt)
    length = time.monotonic() - began
    files, held, before = output(), at_rest(comfy), temporary(comfy)
    for number in range(1, CANCELS + 1):
        client.free()
        timer = threading.Timer(moments.uniform(0, length), client.interrupt)
        timer.start()
        with contextlib.suppress(PromptInterrupted):
            client.queue(prompt(number).prompt)
            cancelled -= 1
        cancelled += 1
        timer.join()
        assert threads_left(client) == ""
    done = CANCELS - cancelled
    left = output() - files
    assert len(left) <= done * 2  # only of those that ran to their end
    assert not [path for path in left if path.suffix not in (".safetensors", ".json", ".png")]
    assert cancelled >= 3
    assert temporary(comfy) == before
    now = at_rest(comfy)
    assert now.files == held.files and now.children == held.children
    assert now.memory - held.memory < AT_REST
