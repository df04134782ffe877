"""A LoRA on the command line between two files of one model that call its weights differently."""

import pytest
import torch
from safetensors.torch import save_file

from fixtures import inventory
from prolora.adapters import VectorPatch
from prolora.adapters.file import AdapterFile
from prolora.models.key_map import load_checkpoint
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .checkpoints import SD15
from .small_models import drifted, random_lora, random_weight

Tensors = dict[str, torch.Tensor]
UNET = "model.diffusion_model."
CLIP = "cond_stage_model.transformer."


def first_blocks(name: str) -> Tensors:
    """Of each stage of a real architecture, 8 wide."""
    return {
        key: random_weight(tuple(8 for _ in shape), i)
        for i, (key, shape) in enumerate(inventory.inventory(name).tensors.items())
        if not any(number.isdecimal() and number != "0" for number in key.split("."))
    }


def under(prefix: str, tensors: Tensors) -> Tensors:
    return {prefix + key: tensor for key, tensor in tensors.items()}


ANIMA, AURAFLOW = first_blocks("anima"), first_blocks("auraflow")
EARLY_SD1 = {key.replace(f"{CLIP}text_model.", CLIP): tensor for key, tensor in SD15.items()}
# Two files of one model; name in a LoRA -> shape of its weight, and of what a difference changes.
FILES = {
    "Anima's official file and a fine-tune": (
        under("net.", ANIMA),
        under(UNET, ANIMA),
        {
            "lora_unet_blocks_0_self_attn_q_proj": (8, 8),
            "diffusion_model.blocks.0.mlp.layer1": (8, 8),
            "diffusion_model.blocks.0.self_attn.q_norm": (8,),
        },
    ),
    "AuraFlow's checkpoint and its model alone": (
        under("model.", AURAFLOW),
        AURAFLOW,
        {
            "lora_unet_double_layers_0_attn_w1q": (8, 8),
            "transformer.joint_transformer_blocks.0.attn.to_q": (8, 8),
            "transformer.single_transformer_blocks.0.ff.out_projection": (8, 8),
            "diffusion_model.register_tokens": (8, 8, 8),
        },
    ),
    "SD1 with and without text_model": (
        EARLY_SD1,
        SD15,
        {
            "lora_te_text_model_encoder_layers_0_mlp_fc1": (32, 8),
            "text_encoder.text_model.encoder.layers.0.self_attn.q_proj": (8, 8),
            "lora_unet_mid_block_attentions_0_proj_in": (8, 8, 1, 1),
            "text_encoders.clip_l.transformer.text_model.encoder.layers.0.layer_norm1": (768,),
        },
    ),
}


@pytest.mark.parametrize("way", [1, -1], ids=["there", "back"])
@pytest.mark.parametrize("case", FILES)
def test_every_module_is_moved(tmp_path, case, way):
    *files, modules = FILES[case]
    source, target = files[::way]
    assert source.keys() != target.keys()
    save_file(source, tmp_path / "a.safetensors")
    after = {key: drifted(tensor, seed=i) for i, (key, tensor) in enumerate(target.items())}
    save_file(after, tmp_path / "b.safetensors")
    lora, differences = [], []
    for name, shape in modules.items():
        if len(shape) in (2, 4):
            lora.append(random_lora(name, shape))
        else:
            differences.append(VectorPatch(name, "set_weight", torch.ones(shape)))
    file = AdapterFile(case, tuple(lora), {}, (), {}, (), tuple(differences))
    models = [load_checkpoint(tmp_path / f"{name}.safetensors") for name in "ab"]
    rows = transfer_lora(file, *models, TransferSettings(threshold=0.0)).report.rows
    moved = {row.name.removesuffix(".set_weight"): row.status for row in rows}
    want = {adapter.name: "moved" for adapter in lora}
    assert moved == want | {patch.name: "copied" for patch in differences}
