"""Spellings of a module's name that no key map lists."""

from dataclasses import replace

import pytest
import torch

from prolora.adapters import VectorPatch, lora_state_dict
from prolora.errors import ProLoRAError
from prolora.models.model import Model
from prolora.models.module_names import is_text_encoder
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.naming.output_names import rename
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from . import host_names
from .small_models import file_of, paired, random_lora, random_weight

ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
# As ComfyUI maps an SD1.x or SDXL UNet: attention by the names of diffusers before 0.20 alone.
UNET = {
    f"lora_unet_{ATTENTION.replace('.', '_')}_to_q": WeightRef("q"),
    f"unet.{ATTENTION}.processor.to_q": WeightRef("q"),
    f"unet.{ATTENTION}.processor.to_out": WeightRef("out"),
}
MAPS = {
    "unet": UNET,
    "flux": host_names.flux() | host_names.text_encoders(),
    "z-image": host_names.z_image(),
    "wan": host_names.wan(),
}
# Tool -> spelling, and a name of the same module that the host has.
SPELLINGS = {
    "diffusers": ("unet", f"unet.{ATTENTION}.to_q", f"unet.{ATTENTION}.processor.to_q"),
    "diffusers, output": (
        *("unet", f"unet.{ATTENTION}.to_out.0", f"unet.{ATTENTION}.processor.to_out"),
    ),
    "PEFT on a UNet": (
        *("unet", f"base_model.model.{ATTENTION}.to_q", f"unet.{ATTENTION}.processor.to_q"),
    ),
    "old PEFT scripts": (
        "unet",
        f"unet.base_model.model.{ATTENTION}.to_q",
        f"unet.{ATTENTION}.processor.to_q",
    ),
    "SimpleTuner": (
        "flux",
        "transformer.base_model.model.transformer_blocks.0.attn.to_q",
        "transformer.transformer_blocks.0.attn.to_q",
    ),
    "PEFT on Flux": (
        "flux",
        "base_model.model.single_transformer_blocks.0.proj_mlp",
        "transformer.single_transformer_blocks.0.proj_mlp",
    ),
    "kohya's flat form of diffusers' names": (
        "flux",
        "lora_unet_transformer_blocks_0_attn_to_add_out",
        "transformer.transformer_blocks.0.attn.to_add_out",
    ),
    "LyCORIS on the authors' names": (
        *("flux", "lycoris_double_blocks_0_img_attn_qkv"),
        "diffusion_model.double_blocks.0.img_attn.qkv",
    ),
    "the authors' bare names": (
        *("flux", "double_blocks.0.img_attn.qkv", "diffusion_model.double_blocks.0.img_attn.qkv"),
    ),
    "diffusers before 0.20, text encoder": (
        "flux",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1",
    ),
    "OMI, CLIP": (
        "flux",
        "clip_l.text_model.encoder.layers.0.mlp.fc1",
        "text_encoders.clip_l.transformer.text_model.encoder.layers.0.mlp.fc1",
    ),
    "OMI, T5": (
        *("flux", "t5.encoder.block.0.layer.0.SelfAttention.q"),
        "lora_te3_encoder_block_0_layer_0_SelfAttention_q",
    ),
    "PEFT on a text encoder": (
        *("flux", "text_encoder_2.base_model.model.encoder.block.0.layer.0.SelfAttention.q"),
        "lora_te2_encoder_block_0_layer_0_SelfAttention_q",
    ),
    "musubi-tuner": (
        "z-image",
        "lora_unet_layers_0_attention_to_q",
        "diffusion_model.layers.0.attention.to_q",
    ),
    "DiffSynth": ("wan", "blocks.0.self_attn.q", "diffusion_model.blocks.0.self_attn.q"),
    "DiffSynth, whole pipeline": ("wan", "pipe.dit.blocks.0.ffn.0", "lora_unet_blocks_0_ffn_0"),
    "Wan Fun": ("wan", "lora_unet__blocks_0_cross_attn_k", "lora_unet_blocks_0_cross_attn_k"),
    "diffusers, Wan": (
        *("wan", "transformer.blocks.0.attn1.to_q", "diffusion_model.blocks.0.self_attn.q"),
    ),
    "diffusers, Wan, output": (
        *("wan", "transformer.blocks.0.attn2.to_out.0", "diffusion_model.blocks.0.cross_attn.o"),
    ),
    "diffusers, Wan, image": (
        "wan",
        "transformer.blocks.0.attn2.add_k_proj",
        "diffusion_model.blocks.0.cross_attn.k_img",
    ),
    "diffusers, Wan, mlp": (
        *("wan", "transformer.blocks.0.ffn.net.2", "diffusion_model.blocks.0.ffn.2"),
    ),
    "diffusers, Wan, embedding": (
        "wan",
        "transformer.condition_embedder.text_embedder.linear_1",
        "diffusion_model.text_embedding.0",
    ),
}


def model(names: dict[str, WeightRef], name: str = "model") -> Model:
    return Model(name, "", StateDictWeights({}), names)


@pytest.mark.parametrize("tool", SPELLINGS)
def test_a_spelling_that_no_map_lists(tool):
    kind, spelling, known = SPELLINGS[tool]
    names = {name: ref for name, ref in MAPS[kind].items() if name != spelling}
    assert spelling not in names
    assert model(names).resolve(spelling) == MAPS[kind][known]


@pytest.mark.parametrize("kind", MAPS)
def test_what_the_map_lists_is_never_taken_for_something_else(kind):
    names = MAPS[kind]
    assert {name: model(names).resolve(name) for name in names} == names


def test_a_name_that_could_be_two_modules_is_not_found():
    names = {"diffusion_model.a.b_c": WeightRef("one"), "diffusion_model.a_b.c": WeightRef("two")}
    assert model(names).resolve("lora_unet_a_b_c") is None
    assert model(names).resolve("diffusion_model.a.b_c") == WeightRef("one")


@pytest.mark.parametrize("name", ["transformer.nowhere", "", "lora_te1_blocks_0_self_attn_q"])
def test_a_name_of_no_module(name):
    assert model(MAPS["wan"]).resolve(name) is None


TEXT = (
    *("lora_te_x", "lora_te1_x", "lora_te2_x", "lora_te3_x", "lora_prior_te_x"),
    *("text_encoder.x", "text_encoder_2.x", "text_encoder_3.x", "text_encoders.clip_g.x"),
    *("clip_l.x", "clip_g.x", "t5xxl.x", "t5.x", "base_model.model.text_encoder.x"),
)
NO_TEXT = ("lora_unet_te_x", "transformer.x", "txt_in", "text_embedding.0", "lora_transformer_te1")


def test_text_encoders_by_their_names():
    assert [name for name in TEXT if not is_text_encoder(name)] == []
    assert [name for name in NO_TEXT if is_text_encoder(name)] == []


def with_weights(names: dict[str, WeightRef], name: str) -> Model:
    keys = {ref.key for ref in names.values()}
    weights = {key: random_weight((host_names.rows_of(names, key), 8)) for key in keys}
    return Model(name, "Flux", StateDictWeights(weights), names)


def test_a_text_encoder_without_a_clip_is_left_out_with_the_reason():
    both = host_names.flux() | host_names.text_encoders()
    source, target = with_weights(both, "a"), with_weights(host_names.flux(), "b")
    names = [
        "clip_l.text_model.encoder.layers.0.mlp.fc1",
        "transformer.base_model.model.x_embedder",
    ]
    pairing = paired(file_of(*(random_lora(n, (16, 8)) for n in names)), source, target)
    assert [pair.adapter.name for pair in pairing.pairs] == names[1:]
    (left,) = pairing.left
    assert left.name == names[0] and "connect a CLIP" in left.reason


def test_of_two_names_for_one_weight_the_host_keeps_the_last_of_its_map():
    names = host_names.flux()
    source = with_weights(names, "a")
    first, last = "lora_unet_img_in", "transformer.x_embedder"
    assert list(names).index(first) < list(names).index(last)
    alias = "base_model.model.x_embedder"  # the host does not load it
    adapters = [random_lora(name, (16, 8)) for name in (last, alias, first)]
    pairing = paired(file_of(*adapters), source, source)
    assert [pair.adapter.name for pair in pairing.pairs] == [last]
    assert {module.name for module in pairing.left} == {first, alias}
    assert all(last in module.reason for module in pairing.left)


def test_differences_and_updates_of_one_weight_in_two_spellings():
    """A weight gets one change, its bias another; the last name of the host's map wins."""
    names = host_names.flux()
    source = with_weights(names, "a")
    last, first = "transformer.x_embedder", "diffusion_model.img_in"
    bias = replace(source, weights=WithBias(source.weights))
    file = replace(
        file_of(random_lora(last, (16, 8))),
        vector_patches=(
            VectorPatch(first, "set_weight", torch.ones(16, 8)),
            VectorPatch(first, "diff_b", torch.ones(16)),
            VectorPatch("base_model.model.x_embedder", "diff_b", torch.ones(16)),
        ),
    )
    result = transfer_lora(file, bias, bias, TransferSettings())
    kept = [(part.name, getattr(part, "role", "")) for part in result.contents]
    assert kept == [(last, ""), (first, "diff_b")]
    skipped = [row for row in result.report.rows if row.status == "skipped"]
    assert [row.name for row in skipped] == [
        f"{first}.set_weight",
        "base_model.model.x_embedder.diff_b",
    ]
    assert all("means the same weight as" in row.reason for row in skipped)
    named = rename(result.contents, names, "Flux")
    assert len(lora_state_dict(named.adapters, style=named.style)) == 3


class WithBias(StateDictWeights):
    """The weights, and a bias for each."""

    def __init__(self, weights: StateDictWeights) -> None:
        tensors = {key: weights.read(key) for key in weights}
        biases = {f"{k.removesuffix('weight')}bias": t[:, 0] for k, t in tensors.items()}
        super().__init__(tensors | biases)


def test_two_modules_of_one_name_are_no_file():
    twice = [random_lora("layer", (16, 8)), random_lora("layer", (16, 8))]
    with pytest.raises(ProLoRAError, match="Two modules of this LoRA would be called layer"):
        lora_state_dict(twice)


def test_parts_that_overlap_are_both_kept():
    """As the host adds both."""
    source = with_weights(host_names.flux(), "a")
    whole = "lora_unet_single_blocks_0_linear1"
    part = "transformer.single_transformer_blocks.0.attn.to_q"
    adapters = (random_lora(whole, (56, 8)), random_lora(part, (8, 8)))
    assert len(paired(file_of(*adapters), source, source).pairs) == 2
