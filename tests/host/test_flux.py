"""Black Forest Labs' control LoRAs, whose keys the host itself renames before it reads them."""

import json

import pytest
from safetensors.torch import save_file

from comfy_harness.client import ComfyClient, PromptFailed

from .prompts import PromptBuilder
from .small_flux import LINEARS, NORMS, control_lora, flux

pytestmark = pytest.mark.host

MODEL, LORA = "small_flux.safetensors", "flux_control.safetensors"


def skip_unless_it_loads(client: ComfyClient) -> None:
    graph = PromptBuilder()
    graph.node(
        "ProbeFingerprint", model=graph.node("UNETLoader", unet_name=MODEL, weight_dtype="default")
    )
    try:
        client.queue(graph.prompt)
    except PromptFailed as error:
        if "size mismatch" not in str(error):
            raise
        pytest.skip("this host builds a Flux at its full width only")


def test_a_control_lora_is_what_the_core_loader_makes_of_it(client, comfy, graph, object_info):
    if "LoraSave" not in object_info:
        pytest.skip("this host does not read control LoRAs")
    models = comfy.folder / "models"
    (models / "diffusion_models").mkdir(exist_ok=True)
    save_file(flux(), models / "diffusion_models" / MODEL)
    save_file(control_lora(), models / "loras" / LORA)
    skip_unless_it_loads(client)
    model = graph.node("UNETLoader", unet_name=MODEL, weight_dtype="default")
    source = graph.source(LORA, source_checkpoint=MODEL)
    lora = graph.transfer(source, model, threshold=0, copy_identical=False)
    core = graph.core_lora(model, LORA)
    probe = graph.node("ProbePatches", model=core, other_model=graph.apply(model, lora))
    done = client.queue(graph.prompt)
    weights = json.loads(done.of(probe[0])["text"][0])
    summary = done.of(lora[0])["text"][0]
    assert "the weight is padded with zeros to 128 x 128" in summary
    assert len(weights) == 2 * len(LINEARS) + len(NORMS)
    for key, weight in weights.items():
        assert weight["change"] > 0.05, key
        assert weight["difference"] < 1e-4, key
