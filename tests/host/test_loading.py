"""A source file is understood as ComfyUI's own loaders understand it: every class, all namings."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from comfy_harness.client import PromptFailed
from comfy_harness.hosts import PACK_ROOT

from .architectures import ask
from .loading_files import (
    CLASSES,
    DIFFUSERS,
    class_file,
    class_row,
    diffusers_model,
    first_blocks,
    write_sampled,
)

pytestmark = pytest.mark.host

# Of a UNet, ComfyUI's loader renames the tensors and does nothing else with them.
UNETS = {"sd1", "sd2", "sdxl", "lotus-d"}
# Weights that a file of diffusers has not, so that ComfyUI leaves them as they are.
LACKING = {name: ["y_embedder.y_embedding"] for name in ("pixart-alpha", "pixart-sigma")}
A, B = "emoji_a.safetensors", "emoji_b.safetensors"


@pytest.fixture(scope="module")
def classes(client) -> list[str]:
    return ask(client, "ProbeHostClasses")


@pytest.fixture
def needs(classes):
    """Skips a test for a ComfyUI that is too old for a class."""

    def check(name: str) -> None:
        if name not in classes:
            pytest.skip(f"this ComfyUI has no {name}")

    return check


@pytest.fixture
def file(comfy, request):
    # Another name for every test: ComfyUI takes a file of the same name for the same.
    path = comfy.folder / "models" / "unet" / f"{request.node.name}.safetensors"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def loading(client, classes, file):
    """What the host's own loader makes of the file, and what differs from it here."""

    def ask_host(loader: str, data: bool) -> dict:
        found = ask(client, "ProbeLoading", file_name=file.name, loader=loader, data=data)
        if found["refused"] and "MiniMaxH3" not in classes:  # of 2026: the newest refuses none
            pytest.skip(f"this ComfyUI's own loader refuses it: {found['refused']}")
        assert not found["refused"]
        return found

    return ask_host


@pytest.fixture
def refusal(client, graph, file):
    """What Load Source LoRA says of the file."""

    def message() -> str:
        source = graph.source(source_checkpoint=file.name)
        graph.save(graph.transfer(source, graph.checkpoint(B)), "loras/bad")
        with pytest.raises(PromptFailed) as error:
            client.queue(graph.prompt)
        assert error.value.node_id == source[0]
        assert error.value.exception_type == "ProLoRAError"
        assert file.name in error.value.message
        return error.value.message

    return message


def check(found: dict, architecture: str, lacking=()) -> None:
    """Names, places, shapes and values, as in the MODEL that ComfyUI's own loader made."""
    assert found["architectures"] == [architecture, architecture]
    assert found["names"] > 20
    assert found["misfit"] == list(lacking)
    for difference in ("missing", "extra", "elsewhere", "other_shapes", "other_values"):
        assert found[difference] == [], difference


# What ComfyUI loads


def test_no_class_is_left_out(classes):
    newer = set(classes) - set(CLASSES)
    if newer:
        pytest.skip(f"this ComfyUI is newer than the tests: {', '.join(sorted(newer))}")
    assert len(classes) > 15


@pytest.mark.parametrize("name", CLASSES)
def test_a_file_of_every_class(client, file, needs, loading, name):
    needs(name)
    row = class_row(name)
    made = ask(client, "ProbeHostClass", host_class=name, row=json.dumps(row))
    if name == "LotusD" and "num_heads" in made["refused"]:
        pytest.skip("0.3.64 builds it from a file of diffusers only: see lotus-d")
    assert not made["refused"]
    write_sampled(file, class_file(row, made["shapes"]), row["metadata"])
    check(loading("checkpoint", data=True), name)


@pytest.mark.parametrize("name", DIFFUSERS)
def test_a_file_in_diffusers_names(file, needs, loading, name):
    model = diffusers_model(name)
    needs(model["host_class"])
    write_sampled(file, model["tensors"])
    found = loading("diffusion model", data=name in UNETS)
    check(found, model["host_class"], LACKING.get(name, ()))


@pytest.mark.parametrize("name", sorted(set(DIFFUSERS) - UNETS))
def test_weights_that_comfyui_joins(file, needs, loading, name):
    """Value by value, of a file with few blocks: ComfyUI joins them all at once, in memory."""
    model = diffusers_model(name)
    needs(model["host_class"])
    write_sampled(file, first_blocks(model["tensors"]))
    found = loading("diffusion model", data=True)
    assert found["compared"] > 10 or name == "qwen-image"  # whose names are diffusers' own
    assert found["other_values"] == []


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux tells the peak")
def test_24_gb_in_diffusers_names_take_no_more_memory_than_a_few_weights(client, file, needs):
    needs("Flux")
    write_sampled(file, diffusers_model("flux-dev")["tensors"])
    assert file.stat().st_size > 23e9
    key = "diffusion_model.double_blocks.9.img_attn.qkv.weight"
    found = ask(client, "ProbeMemory", file_name=file.name, key=key)
    assert found["weight"] == pytest.approx(54, abs=1)  # MB
    assert found["taken"] < 400


def test_a_transfer_from_a_file_in_diffusers_names(client, comfy, graph, file, needs):
    """The demo's checkpoint A by diffusers' names: the same LoRA comes out, bit by bit."""
    needs("Flux")  # the first that takes transformers in diffusers' names
    own = load_file(PACK_ROOT / "demo" / "models" / A)
    save_file(in_diffusers_names(own, ask(client, "ProbeDiffusersNames", depth=3)), file)
    for name, prefix in ((A, "own_names"), (file.name, "diffusers_names")):
        source = graph.source(source_checkpoint=name)
        graph.save(graph.transfer(source, graph.checkpoint(B)), f"loras/{prefix}")
    client.queue(graph.prompt)
    one, other = (
        load_file(max((comfy.folder / "output" / "loras").glob(f"{prefix}_*.safetensors")))
        for prefix in ("own_names", "diffusers_names")
    )
    assert len(one) > 30 and one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def in_diffusers_names(own: dict[str, torch.Tensor], names: dict) -> dict[str, torch.Tensor]:
    found = {}
    for theirs, place in names.items():
        tensor = own.get(f"model.diffusion_model.{place['own']}")
        if tensor is None:
            continue
        if place["swapped"]:
            tensor = torch.cat(tensor.chunk(2)[::-1])
        found[theirs] = tensor.narrow(0, *(place["rows"] or (0, len(tensor)))).contiguous()
    return found


# What it does not load


def test_a_class_that_cannot_be_built(client, file, needs, refusal):
    """Stable Audio's own loader wants more of its checkpoint than the diffusion model."""
    needs("StableAudio")
    row = class_row("StableAudio")
    made = ask(client, "ProbeHostClass", host_class="StableAudio", row=json.dumps(row))
    write_sampled(file, class_file(row | {"beside": {}}, made["shapes"]))
    message = refusal()
    assert "recognises" in message and "as StableAudio" in message
    assert "NumberConditioner" in message and "connect its MODEL" in message
    assert "update" not in message


def test_a_quantised_file_in_diffusers_names(file, needs, refusal):
    needs("Flux")
    tensors = first_blocks(diffusers_model("flux-dev")["tensors"])
    write_sampled(file, tensors | {"transformer_blocks.0.attn.to_q.weight_scale": (1,)})
    assert "is quantised and has diffusers' names" in refusal()


def test_a_file_that_comfyui_stops_at(file, needs, refusal):
    """Flux.2 in diffusers' names: ComfyUI takes it for a Flux.1, and finds no bias."""
    needs("Flux")
    tensors = first_blocks(diffusers_model("flux-dev")["tensors"])
    write_sampled(file, {k: shape for k, shape in tensors.items() if k != "x_embedder.bias"})
    message = refusal()
    assert "does not recognise" in message and "x_embedder.bias" in message
    assert "connect its MODEL instead" in message
