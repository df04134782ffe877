"""What a LoRA was made for, from names that real files have."""

import re
from functools import cache

import pytest

from fixtures import inventory
from prolora.models.architectures import (
    ARCHITECTURES,
    UNKNOWN,
    guess_architecture,
    guess_architectures,
    one_of,
)
from prolora.models.key_map import model_of
from prolora.models.model import Model
from prolora.models.weights import StateDictWeights
from prolora.naming.output_names import CONVENTIONS, NAMINGS, rename

from .checkpoints import SD3, SD15, SD21, SDXL
from .small_models import random_lora

JOINT = "SD3, Flux, Flux.2, Chroma, Qwen-Image or HunyuanVideo"
ROWS = [
    ("SD3", "lora_unet_joint_blocks_11_x_block_attn_qkv"),
    (JOINT, "transformer.transformer_blocks.3.attn.add_q_proj"),
    (JOINT, "lora_transformer_transformer_blocks_18_attn_to_out_0"),
    ("SD3, Flux or HunyuanVideo", "transformer.transformer_blocks.3.norm1_context.linear"),
    ("Qwen-Image", "transformer_blocks.12.img_mlp.net.2"),
    ("Qwen-Image", "transformer.transformer_blocks.0.txt_mod.1"),
    ("HunyuanVideo", "transformer.txt_in.individual_token_refiner.blocks.0.self_attn_qkv"),
    ("HunyuanVideo", "lora_unet_double_blocks_0_img_mlp_fc1"),
    ("Flux, Flux.2, Chroma or HunyuanVideo", "lora_unet_double_blocks_0_img_attn_proj"),
    ("Flux, Flux.2, Chroma or HunyuanVideo", "lora_unet_single_blocks_37_linear1"),
    ("Flux or HunyuanVideo", "lora_unet_single_blocks_37_modulation_lin"),
    ("Flux, Chroma, HunyuanVideo or AuraFlow",
     "transformer.single_transformer_blocks.5.attn.to_q"),
    ("Flux, Flux.2, Chroma, Lumina 2 or Z-Image", "transformer.x_embedder"),
    ("Flux or HunyuanVideo", "lora_unet_vector_in_in_layer"),
    ("Flux.2", "diffusion_model.double_stream_modulation_img.lin"),
    ("Chroma", "diffusion_model.distilled_guidance_layer.layers.0.in_layer"),
    ("PixArt", "lora_unet_blocks_3_cross_attn_kv_linear"),
    ("PixArt", "diffusion_model.blocks.0.cross_attn.q_linear"),
    ("Cosmos, Anima, PixArt or LTX-Video", "transformer.transformer_blocks.0.attn1.to_q"),
    ("PixArt or LTX-Video", "transformer.adaln_single.linear"),
    ("LTX-Video", "diffusion_model.patchify_proj"),
    ("Cosmos or Anima", "diffusion_model.blocks.27.self_attn.q_proj"),
    ("Cosmos or Anima", "lora_unet_blocks_0_cross_attn_output_proj"),
    ("Cosmos", "diffusion_model.blocks.block3.blocks.0.block.attn.to_q.0"),
    ("Anima", "lora_unet_llm_adapter_blocks_0_mlp_0"),
    ("AuraFlow", "lora_unet_single_layers_31_attn_w1q"),
    ("Wan", "diffusion_model.blocks.29.cross_attn.k"),
    ("Wan", "lora_unet_blocks_0_self_attn_o"),
    ("Wan", "transformer.blocks.0.attn1.to_q"),
    ("Lumina 2 or Z-Image", "diffusion_model.layers.3.attention.qkv"),
    ("Lumina 2 or Z-Image", "diffusion_model.layers.3.feed_forward.w1"),
    ("Lumina 2 or Z-Image", "transformer.layers.20.attn.to_out.0"),
    ("SDXL", "lora_unet_output_blocks_0_1_transformer_blocks_9_attn1_to_q"),
    ("SDXL", "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"),
    ("SDXL", "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q"),
    ("SDXL", "unet.mid_block.attentions.0.transformer_blocks.1.attn1.to_q"),
    ("SDXL or SD3", "lora_te2_text_model_encoder_layers_3_mlp_fc1"),
    ("SD3 or Flux", "lora_te3_encoder_block_0_layer_0_SelfAttention_q"),
    ("SD1.x or SD2.x", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"),
    ("SD1.x or SD2.x", "unet.up_blocks.3.attentions.2.proj_out"),
    ("SD1.x, SD2.x or SDXL", "lora_unet_input_blocks_7_1_transformer_blocks_0_attn1_to_q"),
    ("SD1.x, SD2.x or SDXL", "lora_unet_mid_block_resnets_0_conv1"),
    ("a CLIP text encoder", "lora_te_text_model_encoder_layers_3_mlp_fc1"),
    (UNKNOWN, "bert.encoder.layer.0.attention.self.query"),
    (UNKNOWN, ""),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "name"), ROWS)
def test_a_name(architecture, name):
    assert guess_architecture([name]) == architecture


def test_every_row_of_the_table_is_tested():
    told = {name for name, _ in ROWS}
    assert {name for row in ARCHITECTURES for name in row.names} <= {
        name for words in told for name in re.split(", | or ", words)
    }


def test_two_names_tell_more_than_one():
    names = ["transformer.transformer_blocks.3.norm1.linear", "transformer.x_embedder"]
    assert guess_architecture(names) == "Flux"
    text = ["lora_te2_text_model_encoder_layers_3_mlp_fc1", "lora_unet_mid_block_resnets_0_conv1"]
    assert guess_architecture(text) == "SDXL"
    assert guess_architecture([*names, "some.module"]) == "Flux"


def test_names_of_two_architectures_fit_none():
    names = ["lora_unet_joint_blocks_11_x_block_attn_qkv", "diffusion_model.blocks.0.cross_attn.k"]
    assert guess_architecture(names) == UNKNOWN


def test_what_all_of_a_model_s_names_tell():
    names = ["blocks.0.self_attn.q_proj", "final_layer.linear"]
    assert guess_architecture(names) == "Cosmos or Anima"
    assert guess_architecture(names, complete=True) == "Cosmos"
    assert guess_architecture([*names, "llm_adapter.norm"], complete=True) == "Anima"


@pytest.mark.parametrize(
    ("tensors", "architecture"),
    [(SD15, "SD1.x or SD2.x"), (SD21, "SD1.x or SD2.x"), (SDXL, "SDXL"), (SD3, "SD3")],
)
def test_a_whole_checkpoint(tensors, architecture):
    assert model_of("", StateDictWeights(tensors)).architecture == architecture
    reverse = {key: tensors[key] for key in reversed(list(tensors))}
    assert model_of("", StateDictWeights(reverse)).architecture == architecture


def test_a_part_of_a_name_is_not_the_name():
    assert guess_architecture(["x_blocks_0_self_attn_qkv"]) == UNKNOWN  # Wan has q, k and v
    assert guess_architecture(["my_joint_blocks_0_x_block_attn_qkv"]) == UNKNOWN


@pytest.mark.parametrize(
    ("names", "words"), [(["A"], "A"), (["A", "B"], "A or B"), (["A", "B", "C"], "A, B or C")]
)
def test_in_words(names, words):
    assert one_of(names) == words


# Every name of every model

TRUE = {
    **{"sd1": "SD1.x", "sd2": "SD2.x", "sd3": "SD3", "flux2": "Flux.2", "flux": "Flux"},
    **dict.fromkeys(("sdxl", "ssd-1b", "vega", "koala"), "SDXL"),
    **{"chroma": "Chroma", "qwen": "Qwen-Image", "hunyuan": "HunyuanVideo", "wan": "Wan"},
    **{"lumina": "Lumina 2", "z-image": "Z-Image", "cosmos": "Cosmos", "anima": "Anima"},
    **{"pixart": "PixArt", "auraflow": "AuraFlow"},
}


class Shapes(dict):
    """Weights without data."""

    def shape(self, key):
        return self[key]


@cache
def known(name: str) -> tuple[Model, str]:
    """A model, and what it is."""
    model = model_of(name, Shapes(inventory.shapes(name)))
    return model, next(TRUE[start] for start in TRUE if name.startswith(start))


FLAT = ("lycoris_", "lora_transformer_")  # of the same modules as names with dots


@pytest.mark.parametrize("name", inventory.names())
def test_no_name_of_a_model_is_said_to_be_of_others_alone(name):
    model, true = known(name)
    foreign = next(row.foreign for row in CONVENTIONS if re.match(row.pattern, model.architecture))
    unknown = set()
    for module, ref in model.key_map.items():
        if len(model.shape(ref)) < 2 or re.match(foreign, module) or module.startswith(FLAT):
            continue
        guess = guess_architectures([module])
        assert not guess or true in guess, module
        unknown |= set() if guess or not ref.key.endswith(".weight") else {ref.key}
    kinds = {re.sub(r"\d+", "0", key) for key in unknown}
    assert all(
        re.match(r"clip_|pos_embed|diffusion_model\.final_layer|.*_embedder", k) for k in kinds
    )


@pytest.mark.parametrize("name", inventory.names())
@pytest.mark.parametrize("naming", NAMINGS)
@pytest.mark.parametrize("attention", [False, True], ids=["all", "attention"])
def test_a_lora_of_a_model_is_never_said_to_be_of_others(name, naming, attention):
    """In whatever naming, of every module or of attention alone."""
    model, true = known(name)
    own = {
        ref.key: module
        for module, ref in model.key_map.items()
        if module.startswith("lora_unet_") and ref.part is None and not ref.halves_swapped
    }
    wanted = [m for m in own.values() if not attention or re.search(r"attn|attention", m)]
    lora = [random_lora(module, (12, 2), rank=1) for module in wanted]
    named = rename(lora, model.key_map, model.architecture, naming)
    guess = guess_architectures(adapter.name for adapter in named.adapters)
    assert true in guess
    assert attention or len(guess) <= 2
