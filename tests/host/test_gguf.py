"""A MODEL of ComfyUI-GGUF's kind: a transfer sees what the gguf package reads from its blocks."""

import json

import pytest

from .checks import delta_of, fails, relative, saved_lora
from .prompts import PromptBuilder
from .quantised_files import write_lora

pytestmark = pytest.mark.host

B, LORA = "emoji_b.safetensors", "few_modules.safetensors"


@pytest.fixture(scope="module", autouse=True)
def with_gguf(comfy, object_info) -> None:
    if "ProbeGGUF" not in object_info:
        pytest.skip("the Python of this host has no gguf package")
    write_lora(comfy.folder / "models" / "loras" / LORA)


def in_blocks(graph: PromptBuilder, model: list, kind: str, dequantised: bool = False) -> list:
    return graph.node("ProbeGGUF", model=model, type_name=kind, dequantised=dequantised)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "BF16", "F16"])
def test_a_model_of_gguf_blocks(client, comfy, graph, kind):
    model, source = graph.checkpoint(B), graph.source(LORA)
    blocks = in_blocks(graph, model, kind)
    values = in_blocks(graph, model, kind, dequantised=True)
    for name, target in (("blocks", blocks), ("values", values)):
        graph.save(graph.transfer(source, target, threshold=0.0), f"loras/{kind}_{name}")
    lossy, same = (
        graph.node("ProbeWeights", model=blocks, reference_model=other) for other in (model, values)
    )
    done = client.queue(graph.prompt)
    assert max(differences(done, same)) == 0
    assert kind == "F16" or max(differences(done, lossy)) > 1e-3
    onto_blocks, onto_values = (
        delta_of(saved_lora(comfy, f"{kind}_{name}")) for name in ("blocks", "values")
    )
    assert relative(onto_blocks, onto_values) < 1e-6


def differences(done, probe: list) -> list[float]:
    return list(json.loads(done.of(probe[0])["text"][0]).values())


def test_blocks_that_nobody_can_read(client, graph):
    """ggml has the type, and the package no code for it."""
    blocks = in_blocks(graph, graph.checkpoint(B), "Q8_1")
    lora = graph.transfer(graph.source(LORA), blocks)
    graph.save(lora, "loras/bad")
    fails(
        *(client, graph, lora, "The weight diffusion_model.joint_blocks.0."),
        *("stored as GGUF (Q8_1)", "pip install -U gguf", "fp16, bf16 or fp32 version"),
    )
