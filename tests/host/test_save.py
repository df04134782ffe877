"""What Save Transferred LoRA writes."""

import pytest
from safetensors import safe_open

from prolora import __version__

from .prompts import PromptBuilder

pytestmark = pytest.mark.host


@pytest.mark.parametrize(("dtype", "name"), [("fp16", "F16"), ("bf16", "BF16"), ("fp32", "F32")])
def test_the_file(client, comfy, graph, dtype, name):
    model = graph.checkpoint("emoji_b.safetensors")
    lora = graph.transfer(graph.source(), model, rank=4)
    graph.save(lora, f"loras/written_{dtype}", dtype)
    client.queue(graph.prompt)

    path = max((comfy.folder / "output" / "loras").glob(f"written_{dtype}_*.safetensors"))
    with safe_open(path, "pt") as file:
        keys = list(file.keys())
        ups = [key for key in keys if key.endswith(".lora_up.weight")]
        assert {file.get_slice(key).get_dtype() for key in ups} == {name}
        assert {file.get_slice(key).get_shape()[1] for key in ups} == {4}
        alphas = [key for key in keys if key.endswith(".alpha")]
        assert len(alphas) == len(ups) == len(keys) // 3
        assert {float(file.get_tensor(key)) for key in alphas} == {4.0}
        assert all(key.startswith("lora_unet_joint_blocks_") for key in keys)
        metadata = file.metadata()
    assert metadata["prolora_version"] == __version__
    assert metadata["prolora_source"] == "emoji_a.safetensors (SD3)"
    assert metadata["prolora_target"] == "emoji_b.safetensors (SD3)"
    assert metadata["prolora_lora"] == "emoji_style_lora.safetensors"
    assert metadata["prolora_mode"] == "full"
    assert metadata["prolora_threshold"] == metadata["prolora_energy"] == "0.8"
    assert int(metadata["prolora_modules_moved"]) == len(ups)
    assert not list(path.parent.glob("*.partial"))


def test_nothing_is_overwritten(client, comfy):
    for threshold in (0.5, 0.6):  # two different prompts, one prefix
        graph = PromptBuilder()
        model = graph.checkpoint("emoji_b.safetensors")
        graph.save(graph.transfer(graph.source(), model, threshold=threshold), "loras/numbered")
        client.queue(graph.prompt)
    assert len(list((comfy.folder / "output" / "loras").glob("numbered_*.safetensors"))) == 2
