"""Every architecture whose blocks the host counts: from a parent to a child with fewer of them."""

import json

import pytest

from .prompts import PromptBuilder
from .small.architectures import ARCHITECTURES
from .small.files import offer_saved_lora, skip_unless_it_loads, write_small_files
from .small.model import SmallModel, Stage, modules
from .small.random_weights import GONE, parent_block

pytestmark = pytest.mark.host

COUNTED = [name for name, model in ARCHITECTURES.items() if model.counted]


@pytest.fixture(params=COUNTED)
def small(request, client, comfy):
    skip_unless_it_loads(ARCHITECTURES[request.param], client)
    return write_small_files(request.param, comfy.folder / "models")


def test_the_blocks_of_a_pruned_child_find_their_own(client, small):
    """Unprojected, every module is that of the block which the child's block once was."""
    graph = PromptBuilder()
    model = small.load(graph, small.pruned)
    source = graph.source(small.lora, source_checkpoint=small.parent)
    copied = graph.transfer(source, model, mode="copy")
    moved = graph.transfer(source, model)
    wanted = graph.core_lora(model, small.pruned_lora)
    by_number = graph.core_lora(model, small.lora)  # what a user has without a transfer
    probes = [
        graph.node("ProbePatches", model=wanted, other_model=other)
        for other in (by_number, graph.apply(model, copied), graph.apply(model, moved))
    ]
    done = client.queue(graph.prompt)
    naive, copies, projected = (json.loads(done.of(p[0])["text"][0]) for p in probes)

    assert len(copies) == len(projected) == child_weights(small.model)
    for key in copies:
        assert copies[key]["difference"] < 1e-4, key
        assert 0.02 < projected[key]["difference"] < 0.9, key
    wrong = [key for key, weight in naive.items() if weight["difference"] > 1]
    assert len(wrong) == sum(
        (stage.count - 1 - GONE) * weights(stage) for stage in small.model.stages
    )

    for summary in (done.of(copied[0])["text"][0], done.of(moved[0])["text"][0]):
        check_report(summary, small.model)


def test_the_lora_of_a_pruned_child_is_saved(client, comfy, small):
    graph = PromptBuilder()
    model = small.load(graph, small.pruned)
    moved = graph.transfer(graph.source(small.lora, source_checkpoint=small.parent), model)
    graph.save(moved, f"loras/{small.prefix}_pruned")
    client.queue(graph.prompt)
    logged = len(comfy.log_text())
    core = graph.core_lora(model, offer_saved_lora(f"{small.prefix}_pruned", comfy.folder))
    read = graph.node("ProbePatches", model=graph.apply(model, moved), other_model=core)
    differences = json.loads(client.queue(graph.prompt).of(read[0])["text"][0])
    assert len(differences) == child_weights(small.model)
    for key, weight in differences.items():
        assert weight["difference"] < 1e-4, key
    assert "lora key not loaded" not in comfy.log_text()[logged:]


def check_report(summary: str, model: SmallModel) -> None:
    everything = sum(stage.count * len(stage.lora) for stage in model.stages)
    gone = sum(len(stage.lora) for stage in model.stages)
    assert f"{everything - gone} of {everything} modules transferred" in summary
    assert f"{gone} skipped" in summary
    for stage in model.stages:
        arrows = [f"{parent_block(n)} -> {n}" for n in range(stage.count - 1)]
        assert f"by similarity): {', '.join(arrows)}" in summary
        assert f"takes the source's {stage.path}.{GONE}" in summary


def child_weights(model: SmallModel) -> int:
    return sum((stage.count - 1) * weights(stage) for stage in model.stages)


def weights(stage: Stage) -> int:
    return len(modules(stage.shapes))
