"""A node runs again where a file that it read was replaced, came or went; none is read to know."""

import shutil
from threading import Timer

import pytest
from safetensors.torch import load_file, save_file

from comfy_harness.client import PromptInterrupted

from .changed_files import changed
from .prompts import PromptBuilder, out

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
LORA = "emoji_style_lora.safetensors"


@pytest.fixture
def models(comfy):
    return comfy.folder / "models"


def runs_again(client, graph: PromptBuilder, node: list, free: bool = True) -> bool:
    if free:
        client.free()  # which a host may do after the next prompt
        client.queue(graph.prompt)
        client.queue(graph.prompt)
    return node[0] in client.queue(graph.prompt).executed


def put_lora(models, name: str) -> None:
    """A LoRA of its own content, so that no other test finds it in the cache."""
    tensors = load_file(models / "loras" / LORA)
    save_file({key: tensor * 0.75 for key, tensor in tensors.items()}, models / "loras" / name)


def replace(path) -> None:
    tensors = load_file(path)
    path.unlink()  # it may be a link
    save_file({key: changed(key, tensor) for key, tensor in tensors.items()}, path)


@pytest.mark.parametrize("kind", ["ProLoRALoadForModel", "ProLoRALoadSource", "ProLoRAStack"])
def test_a_name_that_a_link_gives(client, models, graph, kind):
    name = f"linked {kind}.safetensors"
    put_lora(models, name)
    link = graph.node("ProbeName", name=name)
    model = graph.checkpoint(B)
    if kind == "ProLoRALoadForModel":
        node = graph.load_for_model(model, link)
        graph.node("ProbeText", text=out(node, 2))
    elif kind == "ProLoRAStack":
        node = graph.stack(model, link)
        graph.node("ProbeText", text=out(node, 3))
    else:
        node = graph.source(link)
        graph.node("ProbeText", text=out(node, 1))
    assert not runs_again(client, graph, node)
    replace(models / "loras" / name)
    assert runs_again(client, graph, node, free=False)
    assert not runs_again(client, graph, node, free=False)


def test_a_base_that_an_extraction_reads(client, models, graph):
    shutil.copy(models / "checkpoints" / A, models / "checkpoints" / "base to change.safetensors")
    shutil.copy(models / "checkpoints" / B, models / "checkpoints" / "tuned to change.safetensors")
    node = graph.extract("base to change.safetensors", "tuned to change.safetensors", rank=1)
    graph.save(node, "loras/extracted_anew")
    for name in ("base", "tuned"):
        assert not runs_again(client, graph, node)
        replace(models / "checkpoints" / f"{name} to change.safetensors")
        assert runs_again(client, graph, node, free=False)


def test_a_source_that_is_compared(client, models, graph):
    shutil.copy(models / "checkpoints" / A, models / "checkpoints" / "compared.safetensors")
    inputs = {"source_checkpoint": "compared.safetensors", "subspace_energy": 0.8}
    node = graph.node("ProLoRASimilarity", model=graph.checkpoint(B), **inputs)
    graph.node("ProbeText", text=out(node, 1))
    assert not runs_again(client, graph, node)
    replace(models / "checkpoints" / "compared.safetensors")
    assert runs_again(client, graph, node, free=False)


@pytest.mark.parametrize("is_stack", [False, True])
def test_a_recording_that_is_put_beside(client, models, graph, is_stack):
    name = f"alone {is_stack}"
    put_lora(models, f"{name}.safetensors")
    load = graph.stack if is_stack else graph.load_for_model
    node = load(graph.checkpoint(B), f"{name}.safetensors")
    graph.node("ProbeText", text=out(node, 3 if is_stack else 2))
    assert not runs_again(client, graph, node)
    (models / "loras" / f"{name}.recording.safetensors").write_bytes(b"no recording")
    assert runs_again(client, graph, node, free=False)


def test_cancel_while_auto_reads_a_checkpoint(client, models, graph):
    """While the host asks whether the node is changed, a Cancel ends 0.33.0's queue for good."""
    with (models / "checkpoints" / "large.safetensors").open("wb") as file:
        file.truncate(20 << 30)  # zeros, which take no place on the disk
    header = {"ss_sd_model_name": "large.safetensors", "ss_new_sd_model_hash": "ab" * 32}
    tensors = load_file(models / "loras" / LORA)
    save_file(tensors, models / "loras" / "of large.safetensors", header)
    given = {"source_checkpoint": "auto"}
    node = graph.load_for_model(graph.checkpoint(B), "of large.safetensors", **given)
    graph.node("ProbeText", text=out(node, 2))
    cancel = Timer(2.0, client.interrupt)
    cancel.start()
    try:
        with pytest.raises(PromptInterrupted):
            client.queue(graph.prompt, timeout=120)
    finally:
        cancel.join()
        (models / "checkpoints" / "large.safetensors").unlink()
