"""What Save Transferred LoRA writes in each naming, read back by the host's own loader."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from .family_files import family_file
from .prompts import PromptBuilder, out
from .small_sd15 import LORA_MODULES, SOURCE, TARGET

pytestmark = pytest.mark.host

A = "emoji_a.safetensors"
NAMINGS = ("auto", "kohya", "comfyui", "diffusers", "peft")
LOADED = ("auto", "kohya", "comfyui")  # of the others the node says that ComfyUI may not
NOT_LOADED = "lora key not loaded"  # in the host's log

# The first module of small_sd15 in the UNet and in the text encoder, as each tool calls them.
SD15_NAMES = {
    "kohya": (
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight",
        "lora_te_text_model_encoder_layers_11_mlp_fc2.lora_up.weight",
    ),
    "comfyui": (
        "diffusion_model.input_blocks.1.1.proj_in.lora_up.weight",
        "encoder.layers.11.mlp.fc2.lora_up.weight",
    ),
    "diffusers": (
        "unet.down_blocks.0.attentions.0.proj_in.lora_B.weight",
        "text_encoder.text_model.encoder.layers.11.mlp.fc2.lora_B.weight",
    ),
    "peft": (
        "base_model.model.down_blocks.0.attentions.0.proj_in.lora_B.weight",
        "text_encoder.text_model.encoder.layers.11.mlp.fc2.lora_B.weight",
    ),
}
SD15_NAMES["auto"] = SD15_NAMES["kohya"]
IN_JUNE_2024 = {"comfyui": SD15_NAMES["kohya"]}  # it knows no other name for most modules

# diffusers' names for parts of the demo model's weights -> rows, columns of the part.
SPLIT = {
    **{f"attn.to_{part}": (192, 192) for part in "qkv"},
    **{f"attn.add_{part}_proj": (192, 192) for part in "qkv"},
    "attn.to_out.0": (192, 192),
    "ff.net.2": (192, 768),
}
BLOCKS, RANK = 2, 4
# Modules that every host knows, by the names of the model's authors.
WHOLE = {
    f"joint_blocks.{block}.x_block.{module}": shape
    for block in range(BLOCKS)
    for module, shape in {"attn.qkv": (576, 192), "mlp.fc2": (192, 768)}.items()
}


def save_in(graph: PromptBuilder, lora: list, name: str, namings=NAMINGS) -> list[list]:
    return [graph.save(lora, f"loras/{name}_{naming}", naming=naming) for naming in namings]


def take_over(comfy, name: str) -> str:
    """Puts the newest saved file where the host's loader finds it."""
    newest = max((comfy.folder / "output" / "loras").glob(f"{name}_0*.safetensors"))
    shutil.copy(newest, comfy.folder / "models" / "loras" / f"{name}.safetensors")
    return f"{name}.safetensors"


def core(graph: PromptBuilder, model: list, lora: str, clip: list | None = None) -> list:
    if clip is None:
        return graph.core_lora(model, lora)
    strengths = {"strength_model": 1.0, "strength_clip": 1.0}
    return graph.node("LoraLoader", model=model, clip=clip, lora_name=lora, **strengths)


def probe(graph: PromptBuilder, one: list, other: list, clip: bool = False) -> list:
    clips = {"clip": out(one, 1), "other_clip": out(other, 1)} if clip else {}
    return graph.node("ProbePatches", model=one, other_model=other, **clips)


def same(done, probe: list, modules: int, tolerance: float = 1e-5) -> None:
    weights = json.loads(done.of(probe[0])["text"][0])
    assert len(weights) == modules
    for key, weight in weights.items():
        assert weight["change"] > 0.01, key
        assert weight["difference"] < tolerance, key


@pytest.mark.parametrize("family", ["lora", "dora_on_outputs"])
def test_sd15_in_every_naming(client, comfy, sd15, graph, object_info, family):
    expected = SD15_NAMES | (IN_JUNE_2024 if "LoraSave" not in object_info else {})
    name = f"naming_{family}"
    save_file(family_file(family), comfy.folder / "models" / "loras" / f"{name}.safetensors")
    model = graph.checkpoint(TARGET)
    clip = out(model, 1)
    source = graph.source(f"{name}.safetensors", source_checkpoint=SOURCE)
    lora = graph.transfer(source, model, clip=clip, threshold=0.0)
    save_in(graph, lora, name)
    client.queue(graph.prompt)

    written = {naming: take_over(comfy, f"{name}_{naming}") for naming in NAMINGS}
    for naming, file in written.items():
        keys = load_file(comfy.folder / "models" / "loras" / file).keys()
        for key in expected[naming]:
            assert any(k.endswith(key) for k in keys), (naming, key, sorted(keys))
        in_peft_style = naming in ("diffusers", "peft")
        assert any(k.endswith(".alpha") for k in keys) != in_peft_style
        magnitude = ".lora_magnitude_vector" if in_peft_style else ".dora_scale"
        assert sum(k.endswith(magnitude) for k in keys) == len(LORA_MODULES) * ("dora" in family)

    ours = graph.apply(model, lora, clip=clip)
    probes = [
        probe(graph, core(graph, model, written[naming], clip), ours, clip=True)
        for naming in LOADED
    ]
    before = len(comfy.log_text())
    done = client.queue(graph.prompt)
    assert NOT_LOADED not in comfy.log_text()[before:]
    for link in probes:
        same(done, link, len(LORA_MODULES))


def lora_of(shapes: dict[str, tuple[int, int]], name: str, factors="AB") -> dict:
    """A LoRA with the same values under any names.

    Args:
        name: of a tensor: {dotted} or {flat} is the module, {A} one of `factors`.
    """
    random = torch.Generator().manual_seed(0)
    tensors = {}
    for module, (m, n) in shapes.items():
        names = {"dotted": module, "flat": module.replace(".", "_")}
        for factor, shape in zip(factors, ((RANK, n), (m, RANK)), strict=True):
            tensors[name.format(A=factor, **names)] = torch.randn(shape, generator=random) / 8
    return tensors


def moved_a_to_a(graph: PromptBuilder, model: list, lora: str) -> list:
    return graph.transfer(graph.source(lora), model, threshold=0.0, copy_identical=False)


def test_split_weights_in_every_naming(client, comfy, graph, object_info):
    """A LoRA of to_q, to_k and to_v; kohya and ComfyUI have one name for the three of them."""
    if "LoraSave" not in object_info:
        pytest.skip("this host has no names for the parts of SD3's weights")
    loras = comfy.folder / "models" / "loras"
    shapes = {f"{i}.{name}": shape for i in range(BLOCKS) for name, shape in SPLIT.items()}
    split = lora_of(shapes, "transformer.transformer_blocks.{dotted}.lora_{A}.weight")
    save_file(split, loras / "split.safetensors")
    model = graph.checkpoint(A)
    lora = moved_a_to_a(graph, model, "split.safetensors")
    saved = save_in(graph, lora, "split", LOADED)
    client.free()  # a node that is cached says nothing
    done = client.queue(graph.prompt)
    said = {naming: done.of(link[0])["text"][0] for naming, link in zip(LOADED, saved, strict=True)}
    assert "joined" not in said["auto"]
    for naming in ("kohya", "comfyui"):
        assert f"{2 * BLOCKS} weights have one name for the whole" in said[naming]

    written = {naming: take_over(comfy, f"split_{naming}") for naming in LOADED}
    assert load_file(loras / written["auto"]).keys() == split.keys()
    for naming, qkv in (
        ("kohya", "lora_unet_joint_blocks_1_x_block_attn_qkv"),
        ("comfyui", "diffusion_model.joint_blocks.1.x_block.attn.qkv"),
    ):
        tensors = load_file(loras / written[naming])
        assert not any("to_q" in key or "add_q" in key for key in tensors)
        assert is_block_diagonal(tensors[f"{qkv}.lora_up.weight"])
        assert tensors[f"{qkv}.lora_down.weight"].shape == (3 * RANK, 192)

    original = core(graph, model, "split.safetensors")
    weights = BLOCKS * 4  # qkv of both sides, proj and fc2
    probes = [
        probe(graph, original, other)
        for other in (
            graph.apply(model, lora),
            *(core(graph, model, written[naming]) for naming in LOADED),
        )
    ]
    before = len(comfy.log_text())
    done = client.queue(graph.prompt)
    assert NOT_LOADED not in comfy.log_text()[before:]
    for link in probes:
        same(done, link, weights, tolerance=1e-4)


def is_block_diagonal(up: torch.Tensor) -> bool:
    """Three blocks of 192 x RANK, in any order of the columns' blocks, and zeros around them."""
    used = up.reshape(3, 192, 3, RANK).abs().amax(dim=(1, 3)) > 0
    return bool((used.sum(dim=0) == 1).all() and (used.sum(dim=1) == 1).all())


@pytest.mark.parametrize(
    "name",
    [
        "transformer.base_model.model.{dotted}.lora_{A}.weight",
        "diffusion_model.{dotted}.lora_{A}.my_style.weight",
        "base_model.model.{dotted}.lora_{A}.my_style.weight",
        "pipe.dit.{dotted}.lora_{A}.default.weight",
    ],
)
def test_names_that_the_host_does_not_know(client, comfy, graph, name):
    """What SimpleTuner, PEFT and DiffSynth write; the host's own loader finds nothing in it."""
    loras = comfy.folder / "models" / "loras"
    file = f"names_of_{name.partition('{')[0]}.safetensors"
    known = lora_of(WHOLE, "lora_unet_{flat}.lora_{A}.weight", ("down", "up"))
    save_file(known, loras / "known_names.safetensors")
    save_file(lora_of(WHOLE, name), loras / file)
    model = graph.checkpoint(A)
    original = core(graph, model, "known_names.safetensors")
    ours = graph.apply(model, moved_a_to_a(graph, model, file))
    by_core = probe(graph, core(graph, model, file), original)
    by_us = probe(graph, original, ours)
    done = client.queue(graph.prompt)
    weights = json.loads(done.of(by_core[0])["text"][0])
    assert {weight["change"] for weight in weights.values()} == {0.0}
    same(done, by_us, len(WHOLE), tolerance=1e-4)


def test_the_page_offers_the_namings(object_info):
    inputs = object_info["ProLoRASave"]["input"]
    choices, options = inputs["optional"]["naming"]
    assert choices == list(NAMINGS)
    assert options["default"] == "auto"
    assert all(word in options["tooltip"] for word in choices)
    assert "naming" not in inputs["required"]  # a graph that was saved before it still opens
