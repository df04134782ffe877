"""Many LoRAs in one go: a stack, and lists as ComfyUI has them."""

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from safetensors.torch import save_file

from .checks import fails, same
from .prompts import PromptBuilder

pytestmark = pytest.mark.host

B = "emoji_b.safetensors"
LORA, HALF, BROKEN = "emoji_style_lora.safetensors", "half_style.safetensors", "broken.safetensors"


@pytest.fixture(scope="module")
def modules(comfy) -> dict[str, int]:
    """How many modules each LoRA has: the demo's; half of it, turned round; one that broke down."""
    loras = comfy.folder / "models" / "loras"
    tensors = load_tensors(loras / LORA)
    names = sorted({key.partition(".")[0] for key in tensors})
    half = {key: t for key, t in tensors.items() if key.partition(".")[0] in names[::2]}
    save_file({key: -t if "lora_up" in key else t for key, t in half.items()}, loras / HALF)
    huge = {key: torch.full(t.shape, 1e25) for key, t in half.items() if "lora_up" in key}
    save_file(half | huge, loras / BROKEN)
    return {LORA: len(names), HALF: len(names[::2])}


def lengths(client, graph: PromptBuilder, node: list) -> set[int]:
    """How long the parts of a node's job are, as the host's bar has it."""
    found = set()

    def look(progress) -> None:
        if progress.node_id == node[0] and progress.maximum > 1:
            found.add(progress.maximum)

    client.free()
    client.queue(graph.prompt, look)
    return found


def saved(comfy, prefix: str) -> list[dict[str, np.ndarray]]:
    found = sorted((comfy.folder / "output" / "loras").glob(f"{prefix}_*.safetensors"))
    return [load_file(path) for path in found]


PLACES = ("first", "second", "third")


def listed(graph: PromptBuilder, *names: str) -> list:
    sources = map(graph.source, names)
    return graph.node("ProbeSourceList", **dict(zip(PLACES, sources, strict=False)))


def transferred(client, comfy, prefix: str, *choices: dict) -> list[dict[str, np.ndarray]]:
    """Each by a node of its own."""
    graph = PromptBuilder()
    for number, choice in enumerate(choices):
        source = graph.source(choice.get("lora", LORA))
        given = {name: value for name, value in choice.items() if name != "lora"}
        node = graph.transfer(source, graph.checkpoint(B), **given)
        graph.save(node, f"loras/{prefix}{number}")
    client.queue(graph.prompt)
    return [saved(comfy, f"{prefix}{number}")[-1] for number in range(len(choices))]


def all_same(ours, theirs) -> bool:
    return all(same(*pair) for pair in zip(ours, theirs, strict=True))


def test_a_list_of_loras_is_moved_at_once(client, comfy, graph, modules):
    node = graph.transfer(listed(graph, LORA, HALF), graph.checkpoint(B))
    graph.save(node, "loras/listed")
    assert lengths(client, graph, node) == {sum(modules.values())}  # one job for all
    alone = transferred(client, comfy, "alone", {"lora": LORA}, {"lora": HALF})
    assert not same(*alone)
    assert all_same(saved(comfy, "listed"), alone)


def test_what_a_list_says(client, graph, modules):
    node = graph.transfer(listed(graph, LORA, HALF), graph.checkpoint(B))
    graph.save(node, "loras/said")
    client.free()
    texts = client.queue(graph.prompt).of(node[0])["text"]
    counts = [f"{modules[name]} of {modules[name]} modules" for name in (LORA, HALF)]
    assert [count in text for count, text in zip(counts, texts, strict=True)] == [True, True]


@pytest.mark.parametrize("loras", [(LORA,), (LORA, HALF), (LORA, HALF, LORA)])
def test_lists_of_other_inputs_go_along_as_the_host_takes_them(
    client, comfy, graph, modules, loras
):
    """The nth of each, and the last again where a list is shorter."""
    thresholds = graph.node("ProbeNumbers", numbers="0.0 0.9")
    node = graph.transfer(listed(graph, *loras), graph.checkpoint(B), threshold=thresholds)
    prefix = f"zipped_{len(loras)}"
    graph.save(node, f"loras/{prefix}")
    client.queue(graph.prompt)
    ends = (*loras, loras[-1])[: max(len(loras), 2)], (0.0, 0.9, 0.9)
    choices = [{"lora": n, "threshold": t} for n, t in zip(*ends, strict=False)]
    alone = transferred(client, comfy, f"alone_{prefix}", *choices)
    assert 0 < len(alone[1]) < len(alone[0])
    assert all_same(saved(comfy, prefix), alone)


def test_a_lora_of_a_list_that_cannot_be_moved_is_named(client, graph, modules):
    node = graph.transfer(listed(graph, LORA, BROKEN), graph.checkpoint(B))
    graph.save(node, "loras/refused")
    fails(client, graph, node, f"{BROKEN}: ", "broke down")


def test_a_stack_is_moved_at_once_but_for_what_is_in_the_cache(client, graph, modules):
    model = graph.checkpoint(B)
    node = graph.stack(model, f"{LORA}\n{HALF}", threshold=0.123, mode="prolora")
    graph.latents(node, "stack_at_once")
    assert sum(modules.values()) in lengths(client, graph, node)
    again = PromptBuilder()
    third = again.stack(again.checkpoint(B), f"{HALF}", threshold=0.124, mode="prolora")
    again.latents(third, "stack_of_one")
    assert sum(modules.values()) not in lengths(client, again, third)
    both = PromptBuilder()
    node = both.stack(both.checkpoint(B), f"{LORA}\n{HALF}", threshold=0.124, mode="prolora")
    both.latents(node, "stack_at_once")
    found = lengths(client, both, node)
    assert modules[LORA] in found and sum(modules.values()) not in found  # the other is there


def test_a_lora_of_a_stack_that_cannot_be_moved_is_named(client, graph, modules):
    node = graph.stack(graph.checkpoint(B), f"{LORA}\n{BROKEN}", threshold=0.2)
    graph.latents(node, "refused")
    fails(client, graph, node, f"{BROKEN}: ", "broke down")
