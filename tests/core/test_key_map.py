"""Which weight each spelling of a module means, for checkpoints that no host explains."""

import pytest
import torch
from safetensors.torch import save_file

from fixtures import stable_diffusion as sd
from prolora.models.key_map import key_map, ldm_paths, load_checkpoint
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights

from .checkpoints import SD3, SD15, SD21, SDXL

MODELS = {"SD1.5": SD15, "SD2.1": SD21, "SDXL": SDXL, "SD3": SD3}
UNET = "model.diffusion_model."
CLIP_L = "text_model.encoder.layers.0."

# (model, a name in a LoRA file, the weight's key behind the prefix)
UNET_ROWS = [
    # kohya's names: of diffusers' modules, and of the checkpoint's own
    ("SD1.5", "lora_unet_conv_in", "input_blocks.0.0.weight"),
    ("SD1.5", "lora_unet_conv_out", "out.2.weight"),
    ("SD1.5", "lora_unet_time_embedding_linear_1", "time_embed.0.weight"),
    ("SD1.5", "lora_unet_down_blocks_0_resnets_0_conv1", "input_blocks.1.0.in_layers.2.weight"),
    ("SD1.5", "lora_unet_down_blocks_0_resnets_1_conv2", "input_blocks.2.0.out_layers.3.weight"),
    ("SD1.5", "lora_unet_down_blocks_0_downsamplers_0_conv", "input_blocks.3.0.op.weight"),
    ("SD1.5", "lora_unet_down_blocks_1_resnets_0_conv_shortcut",
     "input_blocks.4.0.skip_connection.weight"),
    ("SD1.5", "lora_unet_down_blocks_3_resnets_1_time_emb_proj",
     "input_blocks.11.0.emb_layers.1.weight"),
    ("SD1.5", "lora_unet_mid_block_resnets_1_conv1", "middle_block.2.in_layers.2.weight"),
    ("SD1.5", "lora_unet_up_blocks_0_upsamplers_0_conv", "output_blocks.2.1.conv.weight"),
    ("SD1.5", "lora_unet_up_blocks_1_upsamplers_0_conv", "output_blocks.5.2.conv.weight"),
    ("SD1.5", "lora_unet_up_blocks_3_attentions_2_proj_out", "output_blocks.11.1.proj_out.weight"),
    ("SD1.5", "lora_unet_down_blocks_2_attentions_1_transformer_blocks_0_attn2_to_k",
     "input_blocks.8.1.transformer_blocks.0.attn2.to_k.weight"),
    ("SD1.5", "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0",
     "middle_block.1.transformer_blocks.0.attn1.to_out.0.weight"),
    ("SDXL", "lora_unet_down_blocks_2_attentions_1_transformer_blocks_9_ff_net_0_proj",
     "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj.weight"),
    ("SDXL", "lora_unet_input_blocks_8_1_transformer_blocks_9_ff_net_0_proj",
     "input_blocks.8.1.transformer_blocks.9.ff.net.0.proj.weight"),
    ("SDXL", "lora_unet_up_blocks_0_attentions_2_transformer_blocks_4_attn1_to_v",
     "output_blocks.2.1.transformer_blocks.4.attn1.to_v.weight"),
    ("SDXL", "lora_unet_up_blocks_0_upsamplers_0_conv", "output_blocks.2.2.conv.weight"),
    ("SDXL", "lora_unet_add_embedding_linear_2", "label_emb.0.2.weight"),
    ("SD3", "lora_unet_joint_blocks_1_x_block_attn_qkv", "joint_blocks.1.x_block.attn.qkv.weight"),
    # LyCORIS, PEFT and diffusers
    ("SD1.5", "lycoris_mid_block_attentions_0_proj_in", "middle_block.1.proj_in.weight"),
    ("SD3", "lycoris_joint_blocks_0_x_block_attn_proj", "joint_blocks.0.x_block.attn.proj.weight"),
    ("SD3", "base_model.model.joint_blocks.0.context_block.attn.qkv",
     "joint_blocks.0.context_block.attn.qkv.weight"),
    ("SD3", "diffusion_model.joint_blocks.0.x_block.attn.qkv",
     "joint_blocks.0.x_block.attn.qkv.weight"),
    ("SD3", "transformer.joint_blocks.0.x_block.attn.qkv",
     "joint_blocks.0.x_block.attn.qkv.weight"),
    ("SD1.5", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0",
     "middle_block.1.transformer_blocks.0.attn1.to_out.0.weight"),
    ("SD1.5", "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_out",
     "middle_block.1.transformer_blocks.0.attn1.to_out.0.weight"),
    ("SD1.5", "mid_block.attentions.0.transformer_blocks.0.attn2.processor.to_k",
     "middle_block.1.transformer_blocks.0.attn2.to_k.weight"),
]  # fmt: skip
TEXT_ROWS = [
    ("SD1.5", "lora_te_text_model_encoder_layers_0_mlp_fc1",
     f"cond_stage_model.transformer.{CLIP_L}mlp.fc1.weight"),
    ("SD1.5", "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
     f"cond_stage_model.transformer.{CLIP_L}self_attn.q_proj.weight"),
    ("SDXL", "lora_te1_text_model_encoder_layers_0_self_attn_out_proj",
     f"conditioner.embedders.0.transformer.{CLIP_L}self_attn.out_proj.weight"),
    ("SDXL", "lora_te2_text_model_encoder_layers_0_mlp_fc2",
     "conditioner.embedders.1.model.transformer.resblocks.0.mlp.c_proj.weight"),
    ("SDXL", "text_encoder_2.text_model.encoder.layers.0.self_attn.out_proj",
     "conditioner.embedders.1.model.transformer.resblocks.0.attn.out_proj.weight"),
    ("SD2.1", "lora_te_text_model_encoder_layers_0_mlp_fc1",
     "cond_stage_model.model.transformer.resblocks.0.mlp.c_fc.weight"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "name", "key"),
    [*((model, name, UNET + key) for model, name, key in UNET_ROWS), *TEXT_ROWS],
)
def test_names(model, name, key):
    assert key in MODELS[model]
    assert key_map(StateDictWeights(MODELS[model]))[name] == WeightRef(key)


@pytest.mark.parametrize(
    ("model", "prefix", "encoder"),
    [
        ("SDXL", "conditioner.embedders.1.model.transformer.", "lora_te2"),
        ("SD2.1", "cond_stage_model.model.transformer.", "lora_te"),
    ],
)
def test_q_k_and_v_of_openclip_are_slices(model, prefix, encoder):
    names = key_map(StateDictWeights(MODELS[model]))
    for position, projection in enumerate("qkv"):
        ref = names[f"{encoder}_text_model_encoder_layers_0_self_attn_{projection}_proj"]
        assert ref.key == f"{prefix}resblocks.0.attn.in_proj_weight"
        assert ref.part == Slice(dim=0, start=8 * position, length=8)


@pytest.mark.parametrize("model", MODELS)
def test_every_matrix_of_the_diffusion_model_has_a_name(model):
    tensors = MODELS[model]
    named = {ref.key for ref in key_map(StateDictWeights(tensors)).values()}
    encoders = ("cond_stage_model.", "conditioner.")
    carriers = {key for key, t in tensors.items() if t.ndim > 1 and "first_stage" not in key}
    assert named == carriers
    assert any(key.startswith(encoders) for key in named) == (model != "SD3")


@pytest.mark.parametrize("model", ["SD1.5", "SD2.1", "SDXL"])
def test_every_matrix_of_a_unet_has_a_diffusers_name(model):
    names = key_map(StateDictWeights(MODELS[model]))
    blocks = ("unet.down_", "unet.mid_", "unet.up_", "unet.conv_", "unet.time_", "unet.add_")
    named = {ref.key for name, ref in names.items() if name.startswith(blocks)}
    assert named == {key for key in MODELS[model] if key.startswith(UNET)}


def test_no_two_weights_share_a_name():
    """Each is alone with the samplers, which tell how large a level is."""
    for tensors in MODELS.values():
        samplers = {key: tensors[key] for key in tensors if key.endswith(".op.weight")}
        seen = []
        for key in (key for key in tensors if UNET in key):
            others = {k: t for k, t in samplers.items() if k != key}
            names = key_map(StateDictWeights({**others, key: tensors[key]})).items()
            own = [name for name, ref in names if ref.key == key]
            seen += [name for name in own if name.startswith("lora_unet_")]
        assert len(seen) == len(set(seen))


def without_data(shapes: sd.Shapes) -> StateDictWeights:
    return StateDictWeights({k: torch.empty(s, device="meta") for k, s in shapes.items()})


# KOALA, with one residual block a level: (diffusers' name, ldm's)
KOALA_ROWS = [
    ("down_blocks.0.downsamplers.0.conv", "input_blocks.2.0.op"),
    ("down_blocks.1.attentions.0.proj_in", "input_blocks.3.1.proj_in"),
    ("down_blocks.2.resnets.0.conv1", "input_blocks.5.0.in_layers.2"),
    ("up_blocks.0.upsamplers.0.conv", "output_blocks.1.2.conv"),
    ("up_blocks.1.attentions.0.proj_in", "output_blocks.2.1.proj_in"),
    ("up_blocks.1.upsamplers.0.conv", "output_blocks.3.2.conv"),
    ("up_blocks.2.resnets.1.conv2", "output_blocks.5.0.out_layers.3"),
]


@pytest.mark.parametrize("figures", [sd.KOALA_1B, sd.KOALA_700M], ids=["1B", "700M"])
def test_one_residual_block_a_level(figures):
    shapes, library = sd.unet(figures), sd.lcm_lora_modules(figures)
    names = key_map(without_data({UNET + key: shape for key, shape in shapes.items()}))
    in_folder = key_map(without_data({f"unet/{m}.weight": shape for m, shape in library.items()}))
    for theirs, ldm in KOALA_ROWS:
        assert names[f"unet.{theirs}"] == WeightRef(f"{UNET}{ldm}.weight")
        assert in_folder["lora_unet_" + ldm.replace(".", "_")].key == f"unet/{theirs}.weight"
    found = {names[f"unet.{module}"].key: shape for module, shape in library.items()}
    assert found == {key: shapes[key.removeprefix(UNET)] for key in found}
    assert len(found) == len(library)


@pytest.mark.parametrize(
    "modules",
    [
        ("input_blocks.3.0.op", "input_blocks.5.0.op", "output_blocks.3.1.proj_in"),
        ("down_blocks.0.resnets.0.conv1", "down_blocks.0.resnets.1.conv1",
         "down_blocks.1.resnets.0.conv1", "up_blocks.1.attentions.0.proj_in"),
    ],
    ids=["ldm", "diffusers"],
)  # fmt: skip
def test_levels_of_several_sizes_have_their_own_names_only(modules):
    weights = without_data({f"{UNET}{module}.weight": (8, 8) for module in modules})
    others = {"ldm": ("down_", "up_"), "diffusers": ("input_", "output_")}
    foreign = others["ldm" if modules[0].startswith("input") else "diffusers"]
    names = key_map(weights)
    assert not [name for name in names if name.removeprefix("lora_unet_").startswith(foreign)]
    assert {f"lora_unet_{module.replace('.', '_')}" for module in modules} <= set(names)
    assert not ldm_paths(weights)


@pytest.mark.parametrize("prefix", ["", "diffusion_model."])
def test_a_diffusion_model_alone(prefix):
    tensors = {prefix + key.removeprefix(UNET): value for key, value in SD3.items() if UNET in key}
    names = key_map(StateDictWeights(tensors))
    key = "joint_blocks.0.x_block.attn.qkv"
    assert (
        names["lora_unet_" + key.replace(".", "_")]
        == names[key]
        == WeightRef(f"{prefix}{key}.weight")
    )


@pytest.mark.parametrize(
    ("model", "architecture"),
    [("SD1.5", "SD1.x or SD2.x"), ("SD2.1", "SD1.x or SD2.x"), ("SDXL", "SDXL"), ("SD3", "SD3")],
)
def test_load_checkpoint(tmp_path, model, architecture):
    path = tmp_path / "base.safetensors"
    save_file(MODELS[model], path)
    loaded = load_checkpoint(path)
    assert (loaded.name, loaded.architecture) == ("base.safetensors", architecture)
    assert loaded.key_map == key_map(StateDictWeights(MODELS[model]))
    assert set(loaded.weights) == set(MODELS[model])
    key = next(iter(MODELS[model]))
    assert key in loaded.weights
    assert loaded.weights.shape(key) == tuple(MODELS[model][key].shape)
    assert loaded.weights.read(key).equal(MODELS[model][key])
