"""Load LoRA Stack for Model: stacks as other packs pass them, and lists."""

import json
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from .checks import fails, relative
from .prompts import PromptBuilder, out
from .sd15_prompt import SD15Prompt
from .small_sd15 import LORA as SD15_LORA
from .small_sd15 import SOURCE, TARGET

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
LORA, SECOND = "emoji_style_lora.safetensors", "second/other style.safetensors"


@pytest.fixture(scope="module", autouse=True)
def second(comfy) -> None:
    """Another LoRA, in a subfolder: the first without its blocks but one, turned round."""
    loras = comfy.folder / "models" / "loras"
    tensors = {key: t for key, t in load_file(loras / LORA).items() if "_blocks_1_" in key}
    (loras / SECOND).parent.mkdir(exist_ok=True)
    turned = {key: -t if "lora_up" in key else t for key, t in tensors.items()}
    save_file(turned, loras / SECOND)


def said(client, graph: PromptBuilder, *nodes: list) -> list[str]:
    client.free()  # a node that is cached says nothing
    done = client.queue(graph.prompt)
    return [done.of(node[0])["text"][0] for node in nodes]


def stacked(graph: PromptBuilder, *entries: tuple[str, float, float]) -> list:
    stack = None
    for name, model, clip in entries:
        weights = {"model_weight": model, "clip_weight": clip}
        stack = graph.node("ProbeMakeStack", lora_name=name, lora_stack=stack, **weights)
    return stack


def three_nodes(graph: PromptBuilder, model: list, *wanted: tuple[str, float]) -> list:
    patched = model
    for lora, strength in wanted:
        moved = graph.transfer(graph.source(lora), model)
        patched = graph.apply(patched, moved, strength)
    return patched


def test_a_stack_and_a_list_are_the_three_nodes_one_after_the_other(client, graph, latents):
    model = graph.checkpoint(B)
    stack = stacked(graph, (LORA, 0.8, 0.5), ("None", 1, 1), (LORA, 0, 0))
    lines = "# another\nother style 0.6\n<lora:other style:0>"
    both = graph.stack(model, lines, lora_stack=stack, mode="full")
    graph.latents(both, "stack")
    graph.latents(three_nodes(graph, model, (LORA, 0.8), (SECOND, 0.6)), "stack_three")
    graph.latents(three_nodes(graph, model, (LORA, 0.8)), "stack_first")
    plain = graph.core_lora(graph.core_lora(model, LORA, 0.8), SECOND, 0.6)
    graph.latents(plain, "stack_plain")
    (summary,) = said(client, graph, both)
    assert summary.count(" modules transferred") == 2
    assert summary.index(LORA) < summary.index("other style.safetensors")
    assert relative(latents("stack_first"), latents("stack_three")) > 0.01
    assert relative(latents("stack_plain"), latents("stack_three")) > 0.01
    assert np.array_equal(latents("stack"), latents("stack_three"))


@pytest.mark.parametrize("consumer", ["ProbeApplyStack", "LoraLoaderModelOnly"])
def test_the_moved_stack_is_for_the_loaders_of_others(client, graph, latents, consumer):
    """Names, that the loras folder resolves: in another pack's node, and in ComfyUI's own."""
    model = graph.checkpoint(B)
    ours = graph.stack(model, f"{LORA} 0.8\nother style 0.6")
    graph.latents(ours, "by_us")
    told = graph.node("ProbeStack", lora_stack=out(ours, 2))
    if consumer == "ProbeApplyStack":
        theirs = graph.node(consumer, model=model, lora_stack=out(ours, 2))
        graph.latents(theirs, "by_them")
    client.free()
    entries = json.loads(client.queue(graph.prompt).of(told[0])["text"][0])
    assert [strengths for _, *strengths in entries] == [[0.8, 0.8], [0.6, 0.6]]
    first, other = (name for name, *_ in entries)
    assert first.startswith("prolora_moved") and "emoji_style_lora for emoji_b " in first
    assert "other style for emoji_b " in other
    if consumer == "LoraLoaderModelOnly":
        again = PromptBuilder()
        patched = again.checkpoint(B)
        for name, strength, _ in entries:
            patched = again.core_lora(patched, name, strength)
        again.latents(patched, "by_them")
        client.queue(again.prompt)
    assert relative(latents("by_them"), latents("by_us")) < 1e-5


def test_the_text_encoder(client, sd15, latents):
    graph = SD15Prompt()
    model = graph.checkpoint(TARGET)
    clip = out(model, 1)
    stack = stacked(graph, (SD15_LORA, 0.0, 1.5))
    chosen = {"clip": clip, "source_checkpoint": SOURCE, "mode": "full"}
    ours = graph.stack(model, "", lora_stack=stack, **chosen)
    lora = graph.transfer(graph.source(), model, clip=clip)
    three = graph.apply(model, lora, clip=clip, strength_model=0.0, strength_clip=1.5)
    for pair, prefix in ((ours, "stack_clip"), (three, "stack_clip_three")):
        graph.latents(pair, out(pair, 1), prefix)
    graph.latents(model, clip, "stack_clip_without")
    client.queue(graph.prompt)
    assert relative(latents("stack_clip_without"), latents("stack_clip_three")) > 1e-3
    assert relative(latents("stack_clip"), latents("stack_clip_three")) < 1e-6


def test_an_empty_stack(client, graph, latents):
    model = graph.checkpoint(B)
    node = graph.stack(model, "\n# nothing\n", lora_stack=stacked(graph, ("None", 1, 1)))
    graph.latents(node, "empty_stack")
    graph.latents(model, "no_stack")
    told = graph.node("ProbeStack", lora_stack=out(node, 2))
    summary, entries = said(client, graph, node, told)
    assert "The stack is empty" in summary and entries == "[]"
    assert np.array_equal(latents("empty_stack"), latents("no_stack"))


def test_a_lora_that_cannot_be_moved_is_named(client, comfy, graph, sd15):
    node = graph.stack(graph.checkpoint(B), f"{LORA}\n{SD15_LORA}")
    graph.latents(node, "refused")
    fails(client, graph, node, f"{SD15_LORA}: The LoRA {SD15_LORA}", "source checkpoint")


def test_a_name_that_is_not_there(client, graph):
    node = graph.stack(graph.checkpoint(B), "emoji_stile_lora 0.8")
    graph.latents(node, "refused")
    fails(client, graph, node, "no LoRA 'emoji_stile_lora", "meant: emoji_style_lora")


def test_files_are_needed_for_the_stack_alone(client, graph):
    """With the cache off, MODEL is given and lora_stack refused."""
    node = graph.stack(graph.checkpoint(B), LORA, cache_gb=0)
    graph.latents(node, "no_files")
    (summary,) = said(client, graph, node)
    assert "cache" not in summary
    theirs = graph.node("ProbeApplyStack", model=graph.checkpoint(B), lora_stack=out(node, 2))
    graph.latents(theirs, "refused")
    fails(client, graph, theirs, "lora_stack of Load LoRA Stack for Model names files", "cache_gb")


def test_a_replaced_file_in_a_linked_stack_is_moved_again(client, comfy, graph, latents):
    """ComfyUI asks the node before the stack is known."""
    loras = comfy.folder / "models" / "loras"
    shutil.copy(loras / LORA, loras / "will_change.safetensors")
    model = graph.checkpoint(B)
    stack = stacked(graph, ("will_change.safetensors", 1, 1))
    node = graph.stack(model, "", lora_stack=stack)
    graph.latents(node, "before_change")
    client.free()  # which a host may do after the next prompt
    client.queue(graph.prompt)
    client.queue(graph.prompt)
    assert node[0] not in client.queue(graph.prompt).executed
    before = latents("before_change")
    shutil.copy(loras / SECOND, loras / "will_change.safetensors")
    assert node[0] in client.queue(graph.prompt).executed
    assert relative(before, latents("before_change")) > 0.01
