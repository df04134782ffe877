"""Settings of torch and MODELs as other packs leave them, and memory that does not suffice."""

import itertools

import pytest

from ..core.disturbances import DISTURBANCES
from ..core.faults import NO_MEMORY
from .checks import delta_of, fails, relative, same, saved_lora
from .prompts import PromptBuilder, out

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
CLOSE = 1e-3  # what is recorded, by a model that runs in another order
_number = itertools.count()


def saved(client, comfy, graph: PromptBuilder, lora: list) -> dict:
    prefix = f"surroundings_{next(_number)}"
    graph.save(lora, f"loras/{prefix}")
    client.queue(graph.prompt)
    return saved_lora(comfy, prefix)


def put_back(client) -> None:
    graph = PromptBuilder()
    graph.node("ProbePutBack", salt=next(_number))
    client.queue(graph.prompt)


@pytest.fixture(scope="module")
def usual(client, comfy) -> dict:
    graph = PromptBuilder()
    return saved(client, comfy, graph, graph.transfer(graph.source(), graph.checkpoint(B)))


@pytest.mark.parametrize("name", DISTURBANCES)
def test_what_another_pack_has_set_changes_no_bit_and_stays(client, comfy, usual, name):
    graph = PromptBuilder()
    client.free()  # so that it is computed again
    set_ = graph.node(
        "ProbeDisturb", model=graph.checkpoint(B), source_lora=graph.source(), name=name
    )
    lora = graph.transfer(out(set_, 1), set_)
    after = graph.node("ProbePutBack", salt=next(_number), lora=lora, settings=out(set_, 2))
    prefix = f"surroundings_{next(_number)}"
    graph.save(after, f"loras/{prefix}")
    try:
        assert client.queue(graph.prompt).of(after[0])["text"] == ["True"]
    finally:
        put_back(client)
    assert same(saved_lora(comfy, prefix), usual)


@pytest.mark.parametrize("kind", NO_MEMORY)
@pytest.mark.parametrize("number", [20, 1500])
def test_no_memory_is_a_sentence_and_the_next_prompt_runs(client, comfy, usual, kind, number):
    graph = PromptBuilder()
    client.free()
    fault = graph.node(
        "ProbeFault",
        model=graph.checkpoint(B),
        source_lora=graph.source(),
        number=number,
        kind=kind,
    )
    lora = graph.transfer(out(fault, 1), fault)
    graph.save(lora, "loras/no_memory")
    try:
        fails(client, graph, lora, "The memory does not suffice (", "models were unloaded")
    finally:
        put_back(client)
    assert not list((comfy.folder / "output" / "loras").glob("no_memory*"))
    again = PromptBuilder()
    moved = again.transfer(again.source(), again.checkpoint(B))
    assert same(saved(client, comfy, again, moved), usual)


@pytest.mark.parametrize("how", ["channels_last", "compiled", "wrapped"])
def test_a_model_as_another_pack_leaves_it(client, comfy, usual, how):
    """It draws, so that it is loaded with all that was done to it; then a LoRA is moved to it."""
    graph = PromptBuilder()
    changed = graph.node("ProbeChangedModel", model=graph.checkpoint(B), how=how)
    graph.latents(changed, f"changed_{how}")
    client.queue(graph.prompt)
    moved = graph.transfer(graph.source(), changed)
    assert same(saved(client, comfy, graph, moved), usual)


@pytest.mark.parametrize("how", ["compiled", "wrapped"])
def test_a_compiled_model_is_recorded_and_refined(client, comfy, how):
    def refined(change) -> dict:
        graph = PromptBuilder()
        source, target = change(graph, graph.checkpoint(A)), change(graph, graph.checkpoint(B))
        lora = graph.source()
        recording = graph.record(lora, source)
        moved = graph.transfer(lora, target, mode="auto", recording=recording)
        return saved(client, comfy, graph, graph.refine(target, moved, recording))

    def compiled(graph, model):
        return graph.node("ProbeChangedModel", model=model, how=how)

    plain, found = refined(lambda graph, model: model), refined(compiled)
    copied = delta_of(saved(client, comfy, *copy_of(PromptBuilder())))
    assert relative(copied, delta_of(plain)) > 0.05
    assert relative(delta_of(found), delta_of(plain)) < CLOSE


def copy_of(graph: PromptBuilder) -> tuple[PromptBuilder, list]:
    return graph, graph.transfer(graph.source(), graph.checkpoint(B), mode="copy")
