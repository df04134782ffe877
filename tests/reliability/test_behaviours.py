"""What the pack does, one behaviour after the other, in whichever ComfyUI runs this."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from comfy_harness.client import ComfyClient, PromptFailed, PromptInterrupted
from comfy_harness.server import ComfyServer
from tests.host.checks import delta_of, relative
from tests.host.prompts import PromptBuilder

from .hosts import host_in, version_of

pytestmark = pytest.mark.host

A, B, PRUNED = "emoji_a.safetensors", "emoji_b.safetensors", "emoji_a_pruned.safetensors"
LORA = "emoji_style_lora.safetensors"


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[ComfyServer]:
    with host_in(tmp_path_factory.mktemp("comfy")) as found:
        yield found


@dataclass
class Host:
    """A host, and what a prompt wrote."""

    server: ComfyServer
    client: ComfyClient
    count: int = 0

    def lora(self, graph: PromptBuilder, lora: list) -> dict[str, np.ndarray]:
        self.count += 1
        graph.save(lora, f"loras/behaviour{self.count}")
        self.client.queue(graph.prompt)
        return load_file(self._newest(f"loras/behaviour{self.count}_*.safetensors"))

    def latents(self, graph: PromptBuilder, model: list) -> np.ndarray:
        self.count += 1
        graph.latents(model, f"drawn{self.count}")
        self.client.queue(graph.prompt)
        return load_file(self._newest(f"drawn{self.count}_*.latent"))["latent_tensor"]

    def text(self, graph: PromptBuilder, node: list) -> str:
        return self.client.queue(graph.prompt).of(node[0])["text"][0]

    def _newest(self, pattern: str) -> Path:
        return max((self.server.folder / "output").glob(pattern))


def bits(lora: dict[str, np.ndarray]) -> str:
    """A few letters that tell two LoRAs apart."""
    found = sha256()
    for key in sorted(lora):
        found.update(key.encode() + lora[key].tobytes())
    return found.hexdigest()[:8]


def moved(target: str) -> Callable[[Host], str]:
    def behaviour(host: Host) -> str:
        graph = PromptBuilder()
        model = graph.node("EmojiLoader", ckpt_name=target)
        lora = graph.transfer(graph.source(LORA), model, threshold=0.0)
        found = host.lora(graph, lora)
        return f"{len(found) // 3} modules, bits {bits(found)}"

    return behaviour


def one_node(host: Host) -> str:
    graph = PromptBuilder()
    node = graph.load_for_model(graph.checkpoint(B), LORA)
    drawn = host.latents(graph, node)
    twice = PromptBuilder()
    transferred = twice.transfer(twice.source(LORA), twice.checkpoint(B))
    by_hand = host.latents(twice, twice.apply(twice.checkpoint(B), transferred))
    plain = PromptBuilder()
    without = host.latents(plain, plain.checkpoint(B))
    assert relative(without, by_hand) > 0.1
    off = relative(drawn, by_hand)
    assert off < 1e-3
    return f"draws as the nodes by hand do, within {max(off, 1e-7):.0e}"


def reloaded(host: Host) -> str:
    """What was saved is read by the host's own loader, and draws the same."""
    graph = PromptBuilder()
    lora = graph.transfer(graph.source(LORA), graph.checkpoint(B))
    graph.save(lora, "loras/reloaded")
    ours = host.latents(graph, graph.apply(graph.checkpoint(B), lora))
    path = max((host.server.folder / "output" / "loras").glob("reloaded_*.safetensors"))
    (host.server.folder / "models" / "loras" / path.name).write_bytes(path.read_bytes())
    again = PromptBuilder()
    theirs = host.latents(again, again.core_lora(again.checkpoint(B), path.name))
    off = relative(theirs, ours)
    assert off < 1e-3
    return f"the host's own loader draws the same, within {max(off, 1e-7):.0e}"


def listened(host: Host) -> str:
    graph = PromptBuilder()
    source, target = graph.source(LORA), graph.checkpoint(B)
    recording = graph.record(source, graph.checkpoint(A))
    calibrated = graph.transfer(source, target, mode="auto", recording=recording)
    refined = host.lora(graph, graph.refine(target, calibrated, recording))
    plain = PromptBuilder()
    copied = host.lora(plain, plain.transfer(plain.source(LORA), plain.checkpoint(B), mode="copy"))
    changed = relative(delta_of(refined), delta_of(copied))
    assert changed > 0.05
    return f"recorded, calibrated and refined; {changed:.2f} off the copy"


def alike(host: Host) -> str:
    graph = PromptBuilder()
    node = graph.node(
        "ProLoRASimilarity",
        model=graph.node("EmojiLoader", ckpt_name=PRUNED),
        source_checkpoint=A,
        subspace_energy=0.8,
    )
    graph.node("PreviewImage", images=node)
    return host.text(graph, node).partition("\n")[0]


def extracted(host: Host) -> str:
    graph = PromptBuilder()
    found = host.lora(graph, graph.extract(A, B, rank=4))
    return f"{len(found)} tensors, bits {bits(found)}"


def refused(host: Host) -> str:
    """The error reaches the page as its sentence."""
    graph = PromptBuilder()
    lora = graph.transfer(graph.source(LORA), graph.checkpoint(B), mode="calibrated")
    graph.save(lora, "loras/refused")
    with pytest.raises(PromptFailed) as error:
        host.client.queue(graph.prompt)
    assert error.value.exception_type == "ProLoRAError"
    return f"“{error.value.message.partition('.')[0]}.”"


def cancelled(host: Host) -> str:
    """At the first module; the next prompt gives the bits that a first one does."""

    def prompt() -> tuple[PromptBuilder, list]:
        graph = PromptBuilder()
        return graph, graph.transfer(graph.source(LORA), graph.checkpoint(B), threshold=0.03)

    def cancel(progress) -> None:
        if progress.node_type == "ProLoRATransfer" and progress.maximum > 1:
            host.client.interrupt()

    graph, lora = prompt()
    graph.save(lora, "loras/cancelled")
    host.client.free()
    ended = "ran to its end"
    try:
        host.client.queue(graph.prompt, cancel)
    except PromptInterrupted:
        ended = "stopped"
    return f"{ended}; then bits {bits(host.lora(*prompt()))}"


BEHAVIOURS: dict[str, Callable[[Host], str]] = {
    "A LoRA is moved to a fine-tune": moved(B),
    "A LoRA is moved to a pruned model": moved(PRUNED),
    "Load LoRA for Model": one_node,
    "A saved LoRA is loaded": reloaded,
    "The source is listened to": listened,
    "ProLoRA Similarity": alike,
    "Extract Difference as LoRA": extracted,
    "An error": refused,
    "Cancel at the first module": cancelled,
}


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_behaviour(server, tell, name):
    client = server.client()
    tell("hosts", name, 1, BEHAVIOURS[name](Host(server, client)), version_of(client))
