"""Quantised checkpoints and models: a transfer sees the values that the host computes with."""

import json

import pytest

from .checks import delta_of, relative, saved_lora
from .prompts import PromptBuilder
from .quantised_files import ALWAYS, FORMS, LAYERS, NAMES, SINCE_2025, write_lora, write_quantised

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
LORA = "few_modules.safetensors"


@pytest.fixture(scope="module", autouse=True)
def few_modules(comfy) -> None:
    write_lora(comfy.folder / "models" / "loras" / LORA)


@pytest.fixture(scope="module")
def loaded(client, object_info) -> set[str]:
    """The forms that this host loads as models."""
    graph = PromptBuilder()
    probe = graph.node("ProbeForms")
    known = json.loads(client.queue(graph.prompt).of(probe[0])["text"][0])
    since_2025 = SINCE_2025 if "LoraSave" in object_info else ()
    return {*ALWAYS, *since_2025, *(form for form, name in NAMES.items() if name in known)}


def source(graph: PromptBuilder, checkpoint: str) -> list:
    return graph.source(LORA, source_checkpoint=checkpoint)


def differences(done, probe: list) -> dict[str, float]:
    """Of the quantised layers."""
    found = json.loads(done.of(probe[0])["text"][0])
    return {layer: found[f"{layer.removeprefix('model.')}.weight"] for layer in LAYERS}


@pytest.mark.parametrize("form", FORMS)
def test_a_quantised_source_file(client, comfy, graph, form):
    """On every host: the pack reads the file, the host only says what its keys mean."""
    quantised, true = write_quantised(form, A, comfy.folder / "models" / "checkpoints")
    target = graph.checkpoint(B)
    for name, checkpoint in (("quantised", quantised), ("true", true)):
        moved = graph.transfer(source(graph, checkpoint), target, threshold=0.0)
        graph.save(moved, f"loras/{form}_{name}")
    lossy, same = (
        graph.node("ProbeWeights", file_name=quantised, reference_file=name) for name in (A, true)
    )
    done = client.queue(graph.prompt)
    assert min(differences(done, lossy).values()) > 5e-3
    assert max(differences(done, same).values()) < 1e-6
    of_quantised, of_true = (
        delta_of(saved_lora(comfy, f"{form}_{n}")) for n in ("quantised", "true")
    )
    assert relative(of_quantised, of_true) < 1e-5


@pytest.mark.parametrize("form", FORMS)
def test_a_quantised_model(client, comfy, graph, loaded, form):
    """The host dequantises; its values are the file's true ones, and the transfer sees them.

    The weights are compared too, because their scale alone does not change where a LoRA goes.
    """
    if form not in loaded:
        pytest.skip("this host does not know this form: it takes the stored numbers for weights")
    quantised, true = write_quantised(form, B, comfy.folder / "models" / "checkpoints")
    model, from_a = graph.checkpoint(quantised), source(graph, A)
    for name, target in (("quantised", model), ("true", graph.checkpoint(true))):
        graph.save(graph.transfer(from_a, target, threshold=0.0), f"loras/onto_{form}_{name}")
    lossy, same = (
        graph.node("ProbeWeights", model=model, reference_file=name) for name in (B, true)
    )
    many = graph.node("ProbeReadByMany", model=model)
    done = client.queue(graph.prompt)
    assert min(differences(done, lossy).values()) > 5e-3
    assert max(differences(done, same).values()) < 1e-6
    assert done.of(many[0])["text"][1] == ""  # no weight that threads read differently
    onto = (delta_of(saved_lora(comfy, f"onto_{form}_{name}")) for name in ("quantised", "true"))
    assert relative(*onto) < 1e-5
