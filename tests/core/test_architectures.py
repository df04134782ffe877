"""What a LoRA was made for, from names that real files have."""

import pytest

from prolora.models.architectures import ARCHITECTURES, UNKNOWN, guess_architecture

from .checkpoints import SD3, SD15, SD21, SDXL

ROWS = [
    ("SD3", "lora_unet_joint_blocks_11_x_block_attn_qkv"),
    ("SD3", "transformer.transformer_blocks.3.attn.add_q_proj"),
    ("Qwen-Image", "transformer_blocks.12.img_mlp.net.2"),
    ("Qwen-Image", "transformer.transformer_blocks.0.txt_mod.1"),
    ("HunyuanVideo", "transformer.txt_in.individual_token_refiner.blocks.0.self_attn_qkv"),
    ("Flux", "lora_unet_double_blocks_0_img_attn_proj"),
    ("Flux", "lora_unet_single_blocks_37_linear1"),
    ("Flux", "transformer.single_transformer_blocks.5.attn.to_q"),
    ("PixArt", "lora_unet_blocks_3_cross_attn_kv_linear"),
    ("PixArt", "diffusion_model.blocks.0.cross_attn.q_linear"),
    ("Cosmos", "diffusion_model.blocks.27.self_attn.q_proj"),
    ("Cosmos", "lora_unet_blocks_0_cross_attn_output_proj"),
    ("Cosmos", "diffusion_model.blocks.block3.blocks.0.block.attn.to_q.0"),
    ("AuraFlow", "lora_unet_single_layers_31_attn_w1q"),
    ("Wan", "diffusion_model.blocks.29.cross_attn.k"),
    ("Wan", "lora_unet_blocks_0_self_attn_o"),
    ("Lumina 2 / Z-Image", "diffusion_model.layers.3.attention.qkv"),
    ("Lumina 2 / Z-Image", "diffusion_model.layers.3.feed_forward.w1"),
    ("SDXL", "lora_unet_output_blocks_0_1_transformer_blocks_9_attn1_to_q"),
    ("SDXL", "lora_unet_input_blocks_4_1_transformer_blocks_1_attn1_to_q"),
    ("SDXL", "unet.down_blocks.1.attentions.0.transformer_blocks.1.attn1.to_q"),
    ("SDXL", "unet.mid_block.attentions.0.transformer_blocks.1.attn1.to_q"),
    ("SDXL", "lora_te2_text_model_encoder_layers_3_mlp_fc1"),
    ("SD1.x or SD2.x", "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"),
    ("SD1.x or SD2.x", "unet.up_blocks.3.attentions.2.proj_out"),
    ("SD1.x or SD2.x", "lora_unet_input_blocks_7_1_transformer_blocks_0_attn1_to_q"),
    ("SD1.x or SD2.x", "lora_unet_mid_block_resnets_0_conv1"),
    ("a CLIP text encoder", "lora_te_text_model_encoder_layers_3_mlp_fc1"),
    (UNKNOWN, "bert.encoder.layer.0.attention.self.query"),
    (UNKNOWN, ""),
]


@pytest.mark.parametrize(("architecture", "name"), ROWS)
def test_a_name(architecture, name):
    assert guess_architecture([name]) == architecture


def test_every_row_of_the_table_is_tested():
    assert {row.name for row in ARCHITECTURES} | {UNKNOWN} == {name for name, _ in ROWS}


@pytest.mark.parametrize(
    ("tensors", "architecture"),
    [(SD15, "SD1.x or SD2.x"), (SD21, "SD1.x or SD2.x"), (SDXL, "SDXL"), (SD3, "SD3")],
)
def test_a_whole_checkpoint(tensors, architecture):
    assert guess_architecture(tensors) == architecture
    assert guess_architecture(reversed(list(tensors))) == architecture


def test_a_part_of_a_name_is_not_the_name():
    assert guess_architecture(["x_blocks_0_self_attn_qkv"]) == UNKNOWN  # Wan has q, k and v
