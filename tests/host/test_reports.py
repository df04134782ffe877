"""What the nodes say of a file and of what stayed behind, and what reaches the saved file."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from comfy_harness.client import PromptFailed
from comfy_harness.hosts import PACK_ROOT

from .checks import fails, saved_lora
from .prompts import PromptBuilder

pytestmark = pytest.mark.host

A, B = "emoji_a.safetensors", "emoji_b.safetensors"
MODULES = {
    "joint_blocks.0.x_block.attn.qkv": (576, 192),
    "joint_blocks.0.x_block.mlp.fc2": (192, 768),
}


def style() -> dict[str, torch.Tensor]:
    """Two modules of the demo's LoRA, as kohya's trainer names them."""
    tensors = load_file(PACK_ROOT / "demo" / "models" / "emoji_style_lora.safetensors")
    names = tuple(f"lora_unet_{module.replace('.', '_')}." for module in MODULES)
    return {key: tensor for key, tensor in tensors.items() if key.startswith(names)}


def said(client, graph: PromptBuilder, *nodes: list) -> list[str]:
    client.free()  # a node that is cached says nothing
    done = client.queue(graph.prompt)
    return [done.of(node[0])["text"][0] for node in nodes]


def test_unknown_keys_are_listed(client, comfy, graph):
    odd = {f"lora_unet_{name}.mystery": torch.zeros(2) for name in ("one", "two")}
    save_file(style() | odd, comfy.folder / "models" / "loras" / "with_unknown.safetensors")
    source = graph.source("with_unknown.safetensors")
    lora = graph.transfer(source, graph.checkpoint(B))
    graph.save(lora, "loras/with_unknown")
    info, summary = said(client, graph, source, lora)
    for key in odd:
        assert f"unknown key: {key}" in info
        assert key in summary
    assert "2 keys of the file are of no known kind" in summary
    assert "2 of 2 modules transferred" in summary


def test_an_accelerator_is_marked(client, comfy, graph):
    loras = comfy.folder / "models" / "loras"
    for name in ("LCM_emoji", "plain_emoji"):
        save_file(style(), loras / f"{name}.safetensors")
    source, other = (graph.source(f"{n}.safetensors") for n in ("LCM_emoji", "plain_emoji"))
    for link, prefix in ((source, "marked"), (other, "unmarked")):
        graph.save(graph.transfer(link, graph.checkpoint(B)), f"loras/{prefix}")
    info, plain = said(client, graph, source, other)
    assert "an accelerator (LCM)" in info
    assert "few steps" in info
    assert "accelerator" not in plain
    assert metadata(comfy, "marked")["prolora_accelerator"] == "LCM"
    assert "prolora_accelerator" not in metadata(comfy, "unmarked")


def metadata(comfy, prefix: str) -> dict[str, str]:
    path = max((comfy.folder / "output" / "loras").glob(f"{prefix}_*.safetensors"))
    with safe_open(path, "pt") as file:
        return file.metadata()


def test_a_folder_of_peft_moves_with_its_alpha(client, comfy, graph):
    """adapter_model.safetensors has no alpha: it is in the adapter_config.json beside it."""
    loras = comfy.folder / "models" / "loras"
    folder = loras / "my_style"
    folder.mkdir(exist_ok=True)
    random = torch.Generator().manual_seed(0)
    peft, kohya = {}, {}
    for module, (m, n) in MODULES.items():
        down, up = (torch.randn(shape, generator=random) / 8 for shape in ((4, n), (m, 4)))
        name = f"lora_unet_{module.replace('.', '_')}"
        peft |= {
            f"base_model.model.{module}.lora_{c}.weight": t for c, t in (("A", down), ("B", up))
        }
        kohya |= {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}
        kohya[f"{name}.alpha"] = torch.tensor(12.0)
    save_file(peft, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 12}
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(kohya, loras / "my_style_by_kohya.safetensors")

    model = graph.checkpoint(A)
    source = graph.source("my_style/adapter_model.safetensors")
    lora = graph.transfer(source, model, threshold=0.0, copy_identical=False)
    core = graph.core_lora(model, "my_style_by_kohya.safetensors")
    probe = graph.node("ProbePatches", model=core, other_model=graph.apply(model, lora))
    info, summary, weights = said(client, graph, source, lora, probe)
    assert "alpha from adapter_config.json" in info
    assert "alpha from adapter_config.json" in summary
    assert_equal(json.loads(weights), len(MODULES))


def test_a_control_lora_makes_the_weight_larger(client, comfy, graph, object_info):
    """Flux's control LoRAs give a first layer more inputs: `reshape_weight` says how many."""
    if "LoraSave" not in object_info:
        pytest.skip("this host does not read reshape_weight")
    random = torch.Generator().manual_seed(0)
    name = "lora_unet_context_embedder"
    control = {
        f"{name}.lora_down.weight": torch.randn(4, 80, generator=random) / 8,
        f"{name}.lora_up.weight": torch.randn(192, 4, generator=random) / 8,
        f"{name}.reshape_weight": torch.tensor([192, 80]),
    }
    save_file(style() | control, comfy.folder / "models" / "loras" / "control.safetensors")
    model = graph.checkpoint(A)
    source = graph.source("control.safetensors")
    lora = graph.transfer(source, model, threshold=0.0, copy_identical=False)
    graph.save(lora, "loras/control")
    core = graph.core_lora(model, "control.safetensors")
    probe = graph.node("ProbePatches", model=core, other_model=graph.apply(model, lora))
    summary, weights = said(client, graph, lora, probe)
    assert "the weight is padded with zeros to 192 x 80" in summary
    assert_equal(json.loads(weights), len(MODULES) + 1)
    saved = saved_lora(comfy, "control")
    assert saved[f"{name}.reshape_weight"].tolist() == [192, 80]
    assert saved[f"{name}.lora_down.weight"].shape == (4, 80)


def assert_equal(weights: dict[str, dict[str, float]], modules: int) -> None:
    assert len(weights) == modules
    for key, weight in weights.items():
        assert weight["change"] > 0.01, key
        assert weight["difference"] < 1e-3, key  # in fp16, as most of the file is


def test_a_lora_of_another_node_keeps_its_names(client, comfy, graph):
    """A LORA_MODEL that is a state dict and no more, as the host's own training node gives one."""
    foreign = graph.node("ProbeLoraModel", lora=graph.transfer(graph.source(), graph.checkpoint(B)))
    graph.save(foreign, "loras/foreign_named", naming="auto")
    graph.save(foreign, "loras/foreign_unsaid")  # a graph from before the input was there
    client.queue(graph.prompt)
    for prefix in ("foreign_named", "foreign_unsaid"):
        assert all(key.startswith("lora_unet_joint_blocks_") for key in saved_lora(comfy, prefix))

    saved = graph.save(foreign, "loras/renamed", naming="diffusers")
    fails(
        *(client, graph, saved, "does not come from ProLoRA Transfer"),
        *("cannot be changed to diffusers", "Choose auto"),
    )
    assert not list((comfy.folder / "output" / "loras").glob("renamed*"))


def test_a_mode_by_the_name_that_it_had_before(client, graph):
    """Saved graphs have it; the host compares the value with the list by itself otherwise."""
    lora = graph.transfer(graph.source(), graph.checkpoint(B), mode="align")
    graph.save(lora, "loras/mode_before")
    (summary,) = said(client, graph, lora)
    assert "mode cross_width" in summary


def test_a_mode_that_there_is_not(client, graph):
    lora = graph.transfer(graph.source(), graph.checkpoint(B), mode="everything")
    graph.save(lora, "loras/no_mode")
    with pytest.raises(PromptFailed, match="There is no mode 'everything'"):
        client.queue(graph.prompt)
