"""Which weight each spelling of a module means, for checkpoints that no host explains."""

import pytest
import torch
from safetensors.torch import save_file

from fixtures import stable_diffusion as sd
from prolora.models.key_map import load_checkpoint, model_of
from prolora.models.layout import PREFIXES
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights

from . import host_names
from .checkpoints import SD3, SD15, SD21, SDXL
from .small_models import random_weight

MODELS = {"SD1.5": SD15, "SD2.1": SD21, "SDXL": SDXL, "SD3": SD3}
UNET = "model.diffusion_model."
CLIP_L = "text_model.encoder.layers.0."

# (model, a name in a LoRA file, the weight's key in the checkpoint, behind the prefix)
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


def known(tensors: dict[str, torch.Tensor]) -> Model:
    return model_of("", StateDictWeights(tensors))


def read(model: Model, ref: WeightRef) -> torch.Tensor:
    return model.weight(ref, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("model", "name", "key"),
    [*((model, name, UNET + key) for model, name, key in UNET_ROWS), *TEXT_ROWS],
)
def test_names(model, name, key):
    found = known(MODELS[model])
    assert read(found, found.resolve(name)).equal(MODELS[model][key])


@pytest.mark.parametrize(
    ("model", "prefix", "encoder"),
    [
        ("SDXL", "conditioner.embedders.1.model.transformer.", "lora_te2"),
        ("SD2.1", "cond_stage_model.model.transformer.", "lora_te"),
    ],
)
def test_q_k_and_v_of_openclip_are_parts(model, prefix, encoder):
    found, fused = known(MODELS[model]), MODELS[model][f"{prefix}resblocks.0.attn.in_proj_weight"]
    for rows, projection in zip(fused.chunk(3), "qkv", strict=True):
        ref = found.key_map[f"{encoder}_text_model_encoder_layers_0_self_attn_{projection}_proj"]
        assert read(found, ref).equal(rows) and found.shape(ref) == tuple(rows.shape)


@pytest.mark.parametrize("model", MODELS)
def test_every_matrix_has_a_name(model):
    """And is one, or a part of one, of the file."""
    found = known(MODELS[model])
    named = {ref.key for ref in found.key_map.values()}
    matrices = {key for key in found.weights if len(found.weights.shape(key)) > 1}
    assert matrices - named == {key for key in matrices if key.startswith("first_stage_model.")}
    assert any(key.startswith("clip_") for key in named) == (model != "SD3")
    numbers = sum(tensor.numel() for tensor in MODELS[model].values())
    assert sum(found.weights.read(key).numel() for key in found.weights) == numbers


@pytest.mark.parametrize("model", ["SD1.5", "SD2.1", "SDXL"])
def test_every_matrix_of_a_unet_has_a_diffusers_name(model):
    names = known(MODELS[model]).key_map
    blocks = ("unet.down_", "unet.mid_", "unet.up_", "unet.conv_", "unet.time_", "unet.add_")
    named = {ref.key for name, ref in names.items() if name.startswith(blocks)}
    assert named == {key.removeprefix("model.") for key in MODELS[model] if key.startswith(UNET)}


def without_data(shapes: sd.Shapes) -> Model:
    return known({k: torch.empty(s, device="meta") for k, s in shapes.items()})


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
    checkpoint = without_data({UNET + key: shape for key, shape in shapes.items()})
    in_folder = without_data({f"unet/{m}.weight": shape for m, shape in library.items()})
    for theirs, ldm in KOALA_ROWS:
        for model in (checkpoint, in_folder):
            assert model.key_map[f"unet.{theirs}"] == WeightRef(f"diffusion_model.{ldm}.weight")
    found = {checkpoint.resolve(f"unet.{module}"): shape for module, shape in library.items()}
    assert found == {ref: checkpoint.shape(ref) for ref in found}
    assert len(found) == len(library)


def test_a_unet_of_a_size_that_no_architecture_has():
    """Its modules have the names of all UNets."""
    shapes, library = sd.unet(sd.SMALL_SD15), sd.lcm_lora_modules(sd.SMALL_SD15)
    model = without_data({UNET + key: shape for key, shape in shapes.items()})
    assert library and not model.hint
    for module, shape in library.items():
        assert model.shape(model.resolve(f"unet.{module}")) == shape


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
    model = without_data({f"{UNET}{module}.weight": (8, 8) for module in modules})
    own = [(f"lora_unet_{m.replace('.', '_')}", f"diffusion_model.{m}") for m in modules]
    assert set(model.key_map) == {name for both in own for name in both}
    assert "ComfyUI may know others" in model.hint


@pytest.mark.parametrize("prefix", ["", *PREFIXES])
@pytest.mark.parametrize("model", MODELS)
def test_a_diffusion_model_under_any_prefix(model, prefix):
    """Alone, and beside a text encoder and a VAE."""
    own = {prefix + k.removeprefix(UNET): t for k, t in MODELS[model].items() if UNET in k}
    whole = {k: t for k, t in MODELS[model].items() if UNET not in k} | own
    assert known(whole).key_map == known(MODELS[model]).key_map
    alone = known(own)
    want = {n: ref for n, ref in known(whole).key_map.items() if ref.key.startswith("diffusion_")}
    assert alone.key_map == want and not alone.hint
    for key in alone.weights:
        file_key = prefix + key.removeprefix("diffusion_model.")
        assert alone.weights.read(key).equal(own[file_key])


def test_an_early_sd1_has_no_text_model_in_its_names():
    start = "cond_stage_model.transformer."
    early = {key.replace(f"{start}text_model.", start): t for key, t in SD15.items()}
    assert early.keys() != SD15.keys()
    assert known(early).key_map == known(SD15).key_map


@pytest.mark.parametrize(
    ("key", "stored_as"), [("text_projection", "inputs first"), ("text_projection.weight", "")]
)
def test_the_projection_of_openclip(key, stored_as):
    projection = random_weight((8, 6))
    tensors = {**SDXL, f"conditioner.embedders.1.model.{key}": projection}
    model = known(tensors)
    ref = model.resolve("lora_te2_text_projection")
    want = projection.t() if stored_as else projection
    assert model.shape(ref) == tuple(want.shape) and read(model, ref).equal(want)
    assert read(model, model.resolve("text_encoders.clip_g.transformer.text_projection")).equal(
        want
    )


REFINER, SD2_OF_SGM = 1280, 1024


@pytest.mark.parametrize(
    ("width", "encoder"), [(REFINER, "clip_g"), (SD2_OF_SGM, "clip_h"), (768, "clip_h")]
)
def test_one_place_for_two_encoders(width, encoder):
    start = "conditioner.embedders.0.model.transformer.resblocks.0"
    norm, fc = random_weight((width,)), random_weight((32, 8))
    tensors = {f"{start}.ln_1.weight": norm, f"{start}.mlp.c_fc.weight": fc}
    ref = known(tensors).resolve("lora_te_text_model_encoder_layers_0_mlp_fc1")
    assert ref == WeightRef(f"{encoder}.transformer.text_model.encoder.layers.0.mlp.fc1.weight")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("text_encoder_3/encoder.block.0.layer.0.SelfAttention.q",
         "text_encoders.t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q"),
        ("text_encoder/model.layers.0.mlp.up_proj", "text_encoder.model.layers.0.mlp.up_proj"),
        ("text_encoders.qwen3_06b.transformer.model.layers.0.mlp.up_proj",
         "lora_te_layers_0_mlp_up_proj"),
    ],
    ids=["T5 of a folder", "another of a folder", "Anima"],
)  # fmt: skip
def test_other_text_encoders(key, name):
    tensors = {f"{key}.weight": random_weight((8, 8))}
    if key.endswith(".q"):  # which tells T5, and UMT5 by having one in every block
        tensors[f"{key[:-1]}relative_attention_bias.weight"] = random_weight((4, 4))
    model = known(tensors)
    assert read(model, model.key_map[name]).equal(tensors[f"{key}.weight"])


def test_parameters_and_biases_have_names():
    tensors = {
        "blocks.0.self_attn.q.weight": random_weight((8, 8)),
        "blocks.0.self_attn.q.bias": random_weight((8,)),
        "blocks.0.modulation": random_weight((1, 6, 8)),
        "blocks.0.self_attn.q.scale_weight": torch.ones(()),
        "blocks.0.self_attn.q.comfy_quant": torch.ones(4),
        "scaled_fp8": torch.ones(()),
    }
    names = known({UNET + key: tensor for key, tensor in tensors.items()}).key_map
    assert {name: ref.key for name, ref in names.items()} == {
        "lora_unet_blocks_0_self_attn_q": "diffusion_model.blocks.0.self_attn.q.weight",
        "diffusion_model.blocks.0.self_attn.q": "diffusion_model.blocks.0.self_attn.q.weight",
        "diffusion_model.blocks.0.self_attn.q.bias": "diffusion_model.blocks.0.self_attn.q.bias",
        "diffusion_model.blocks.0.modulation": "diffusion_model.blocks.0.modulation",
    }


# As ComfyUI answers for the same models (see host_names.py).
HOST = {"flux": host_names.flux(), "z-image": host_names.z_image(), "wan": host_names.wan()}


def weights_of(names: dict[str, WeightRef]) -> dict[str, torch.Tensor]:
    keys = {ref.key for ref in names.values()}
    rows = {key: host_names.rows_of(names, key) for key in keys}
    return {key: random_weight((rows[key], host_names.WIDTH), i) for i, key in enumerate(keys)}


@pytest.mark.parametrize("kind", HOST)
def test_names_are_those_of_a_host(kind):
    names = HOST[kind]
    found = known(weights_of(names)).key_map
    assert {name: found.get(name) for name in names} == names


@pytest.mark.parametrize("kind", HOST)
@pytest.mark.parametrize("shape", [(), (8,)])
def test_weights_that_are_no_matrices_have_no_parts(kind, shape):
    """In a file that was damaged, or is a stranger's."""
    names = HOST[kind]
    assert any(ref.part is not None for ref in names.values()) or kind == "wan"
    found = known({ref.key: torch.ones(shape) for ref in names.values()}).key_map
    assert found
    assert not [ref for ref in found.values() if ref.part is not None]


def test_text_encoders_of_a_host():
    names = host_names.text_encoders()
    files = {f"text_encoders.{ref.key}": random_weight((8, 8)) for ref in names.values()}
    assert {name: known(files).key_map.get(name) for name in names} == names


@pytest.mark.parametrize("prefix", ["", "transformer/"])
@pytest.mark.parametrize("kind", ["flux", "z-image"])
def test_a_model_as_the_library_has_it(kind, prefix):
    """Every weight is cut apart as the host's names say, and comes back together."""
    names = HOST[kind]
    theirs, ours = model_and_library(names)
    model = known({prefix + key: tensor for key, tensor in theirs.items()})
    assert len(theirs) > len(ours)
    for key, tensor in ours.items():
        assert model.weights.read(key).equal(tensor), key
        assert model.weights.shape(key) == tuple(tensor.shape)
    assert {n: model.key_map.get(n) for n, ref in names.items() if ref.key in ours} == {
        n: ref for n, ref in names.items() if ref.key in ours
    }


def model_and_library(
    names: dict[str, WeightRef],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Weights of the library's module names, and the authors' that they make."""
    ours, theirs = weights_of(names), {}
    for name, ref in names.items():
        module = name.removeprefix("transformer.")
        flux2 = module.endswith(("to_qkv_mlp_proj", "attn.to_out"))
        if module != name and not flux2:
            whole = ours[ref.key]
            rows = whole if ref.part is None else whole.narrow(0, ref.part.start, ref.part.length)
            theirs[f"{module}.weight"] = ref.reordered(rows).contiguous()
    named = {ref.key for name, ref in names.items() if name.startswith("transformer.")}
    return theirs, {key: tensor for key, tensor in ours.items() if key in named}


def test_half_of_a_fused_weight_stays_what_it_is():
    """As in a file that was cut: no weight is made of parts that are not there."""
    theirs, _ = model_and_library(HOST["flux"])
    del theirs["transformer_blocks.0.attn.to_v.weight"]
    model = known(theirs)
    key = "diffusion_model.transformer_blocks.0.attn.to_q.weight"
    assert model.weights.read(key).equal(theirs["transformer_blocks.0.attn.to_q.weight"])
    assert "diffusion_model.double_blocks.0.img_attn.qkv.weight" not in model.weights


def test_names_that_fit_several_architectures_are_not_joined():
    """Qwen-Image has to_q, to_k and to_v apart, by the names that Flux and SD3 have."""
    names = [f"transformer_blocks.0.attn.{part}" for part in ("to_q", "to_k", "to_v")]
    model = known({f"{name}.weight": random_weight((8, 8)) for name in names})
    assert set(model.weights) == {f"diffusion_model.{name}.weight" for name in names}


@pytest.mark.parametrize(
    ("model", "architecture"),
    [("SD1.5", "SD1.x or SD2.x"), ("SD2.1", "SD1.x or SD2.x"), ("SDXL", "SDXL"), ("SD3", "SD3")],
)
def test_load_checkpoint(tmp_path, model, architecture):
    path = tmp_path / "base.safetensors"
    save_file(MODELS[model], path)
    loaded = load_checkpoint(path)
    assert (loaded.name, loaded.architecture) == ("base.safetensors", architecture)
    assert loaded.key_map == known(MODELS[model]).key_map
    key = next(iter(MODELS[model]))
    ours = key.removeprefix("model.")
    assert ours in loaded.weights
    assert loaded.weights.shape(ours) == tuple(MODELS[model][key].shape)
    assert loaded.weights.read(ours).equal(MODELS[model][key])
