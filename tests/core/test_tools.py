"""What wrote a file, what it is if it is no LoRA, and what is an accelerator."""

import json

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING
from safetensors.torch import save_file

from prolora.adapters import lora_state_dict, parse_adapter_file, read_adapter_file
from prolora.adapters.accelerators import ACCELERATORS, accelerator_of
from prolora.adapters.tools import ADAPTERS, kind_of, tool_of
from prolora.command_line import main
from prolora.errors import ProLoRAError
from prolora.inspection import describe_adapter
from prolora.transfer.job import transfer_lora
from prolora.transfer.report_text import summary_of
from prolora.transfer.settings import TransferSettings

from .libraries import Net
from .small_models import drifted, model_of, random_lora, random_weight

UNET = "lora_unet_input_blocks_4_1_proj_in"
LORA = ("lora_up.weight", "lora_down.weight", "alpha")
# A line of the header, a key; the tool.
WRITTEN = [
    ({"ss_network_module": "networks.lora"}, UNET, "kohya's sd-scripts"),
    ({"ss_network_module": "networks.lora_flux"}, UNET, "kohya's sd-scripts"),
    ({"ss_network_module": "lycoris.kohya"}, UNET, "LyCORIS"),
    ({"ss_network_module": "networks.lora_wan"}, UNET, "musubi-tuner"),
    ({"ss_network_module": "musubi_tuner.networks.lora_zimage"}, UNET, "musubi-tuner"),
    ({"software": json.dumps({"name": "ai-toolkit"})}, "transformer.x_embedder", "ai-toolkit"),
    ({"ss_base_model_version": "sdxl_", "ot_revision": "abc"}, UNET, "OneTrainer"),
    ({"lora_adapter_metadata": "{}"}, "unet.conv_in", "diffusers"),
    ({"prolora_version": "0.1.0", "ss_network_module": "networks.lora"}, UNET, "ProLoRA"),
    ({"ss_network_module": "networks.lokr"}, UNET, "musubi-tuner"),
    ({"ss_network_module": "networks.oft_flux"}, "oft_unet_mid", "kohya's sd-scripts"),
    ({"lycoris_config": "{}"}, "lycoris_x_embedder", "SimpleTuner"),
    ({}, "transformer.base_model.model.x_embedder", "SimpleTuner"),
    ({}, "base_model.model.x_embedder", "PEFT"),
    ({}, "lora_transformer_x_embedder", "OneTrainer"),
    ({}, "lycoris_x_embedder", "LyCORIS"),
    ({"format": "pt"}, UNET, "kohya's sd-scripts or a tool of the same naming"),
    ({}, "diffusion_model.blocks.0.ffn.0", "ComfyUI, ai-toolkit or diffusion-pipe"),
    ({}, "some.module", ""),
]


@pytest.mark.parametrize(("header", "module", "tool"), WRITTEN)
def test_the_tool(header, module, tool):
    assert tool_of([f"{module}.{part}" for part in LORA], header) == tool


def test_the_tool_by_the_suffix():
    assert tool_of(["blocks.0.ffn.0.lora_A.default.weight"], {}) == "DiffSynth"
    assert tool_of(["transformer.x_embedder.lora_A.weight"], {}) == "diffusers"
    assert tool_of(["oft_unet_mid.oft_blocks"], {}) == "kohya's sd-scripts"
    old = "unet.mid_block.attentions.0.attn1.processor.to_q_lora.up.weight"
    assert tool_of([old], {}) == "diffusers before 0.20"


# What people put into the loras folder that is no LoRA.
OTHERS = {
    "a Control-LoRA": ("lora_controlnet", "input_blocks.0.0.up", "input_blocks.0.0.down"),
    "a ControlNet-LLLite": ("lllite_unet_input_blocks_4_1_attn1_to_q.conditioning1.0.weight",),
    "a ControlNet": ("zero_convs.0.0.weight", "input_blocks.0.0.weight"),
    "an IP-Adapter": ("image_proj.proj.weight", "ip_adapter.1.to_k_ip.weight"),
    "a T2I-Adapter": ("body.0.resnets.0.block1.weight", "conv_in.weight"),
    "an embedding": ("clip_l", "clip_g"),
    "a Flux LoRA of XLabs' trainer or USO": (
        "double_blocks.0.processor.qkv_lora1.up.weight",
        "single_blocks.0.processor.qkv_lora.up.weight",  # ends as a LoRA's
        "single_blocks.0.processor.qkv_lora.down.weight",
    ),
    "a control LoRA of Flux": (
        "img_in.lora_A.weight",
        "img_in.lora_B.weight",
        "single_blocks.0.norm.key_norm.scale",
    ),
    "a VAE": ("decoder.conv_in.weight", "encoder.conv_in.weight"),
    "a checkpoint": ("model.diffusion_model.out.2.weight", "first_stage_model.x"),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_kind_of_file_is_named(tmp_path, kind, capsys):
    path = tmp_path / "style.safetensors"
    save_file({key: torch.ones(2, 2) for key in OTHERS[kind]}, path)
    with pytest.raises(ProLoRAError, match=rf"^style\.safetensors is no LoRA: .*be {kind}\. \w+"):
        read_adapter_file(path)
    if kind != "a checkpoint":
        assert main(["inspect", str(path)]) == 0
        assert kind in capsys.readouterr().out


TARGET = {"target_modules": ["linear"]}
PEFT_METHODS = {
    # Two of its three tensors have a LoRA's names, and would be read as one.
    "AdaLoRA": peft.AdaLoraConfig(init_r=4, target_r=2, total_step=10, **TARGET),
    "BEFT": peft.BeftConfig(**TARGET),
    "C3A": peft.C3AConfig(block_size=8, **TARGET),
    "DEFT": peft.DeftConfig(**TARGET),
    "DeLoRA": peft.DeloraConfig(**TARGET),
    "FRoD": peft.FrodConfig(**TARGET),
    "FourierFT": peft.FourierFTConfig(n_frequency=10, **TARGET),
    "GLoRA in PEFT's form": peft.GloraConfig(**TARGET),
    "GraLoRA": peft.GraloraConfig(**TARGET),
    "HRA": peft.HRAConfig(**TARGET),
    "HiRA": peft.HiraConfig(**TARGET),
    "KaSA": peft.LoraConfig(r=2, kasa_config=peft.KasaConfig(), **TARGET),
    "LN Tuning": peft.LNTuningConfig(**TARGET),
    "Lily": peft.LilyConfig(**TARGET),
    "MiSS": peft.MissConfig(r=4, **TARGET),
    "OSF": peft.OSFConfig(**TARGET),
    "PEANuT": peft.PeanutConfig(**TARGET),
    "PSOFT": peft.PsoftConfig(r=4, **TARGET),
    "PVeRA": peft.PveraConfig(r=4, **TARGET),
    "Poly": peft.PolyConfig(r=4, **TARGET),
    "RandLoRA": peft.RandLoraConfig(r=4, **TARGET),
    "RoAd": peft.RoadConfig(group_size=8, **TARGET),
    "SHiRA": peft.ShiraConfig(r=4, **TARGET),
    "Super Tuning": peft.SupertuningConfig(**TARGET),
    "TinyLoRA": peft.TinyLoraConfig(**TARGET),
    "Uni-LoRA": peft.UniLoraConfig(**TARGET),
    "VB-LoRA": peft.VBLoRAConfig(r=2, num_vectors=8, vector_length=2, topk=2, **TARGET),
    "VeRA": peft.VeraConfig(r=4, **TARGET),
    "WaveFT": peft.WaveFTConfig(n_frequency=10, **TARGET),
}
# What this model cannot be given: AdaMSS asks for scikit-learn, the others for a language model.
# Bone is MiSS under the name that it had in PEFT before 0.18.
NOT_MADE = {"AdaMSS", "Bone", "Shadow", "trainable tokens"}


@pytest.mark.parametrize("method", PEFT_METHODS)
def test_a_family_that_peft_writes_and_nothing_here_reads(tmp_path, method):
    """Downloaded without its configuration, as people do, and with it."""
    torch.manual_seed(0)
    peft.get_peft_model(Net(), PEFT_METHODS[method]).save_pretrained(tmp_path)
    with pytest.raises(ProLoRAError, match=r"(PEFT's type|a variant of LoRA that)"):
        read_adapter_file(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").unlink()
    with pytest.raises(ProLoRAError, match=rf"be {method}, written by PEFT\. .*Merge it"):
        read_adapter_file(tmp_path / "adapter_model.safetensors")


def test_every_method_of_peft_that_changes_weights_is_read_or_named():
    """Its own registry: the prefixes of the parameters, but those of prompts and mixtures."""
    read = {"lora_", "hada_", "lokr_", "oft_", "boft_", "ia3_"}
    others = "adaption_prompt cartridge cpt multitask_prompt_tuning p_tuning prefix_tuning xlora"
    others = {f"{name}_" for name in (*others.split(), "prompt_tuning")}
    named = {prefix for prefix in PEFT_TYPE_TO_PREFIX_MAPPING.values() if kind_of([f"m.{prefix}x"])}
    assert set(PEFT_TYPE_TO_PREFIX_MAPPING.values()) == read | others | named
    assert not named & (read | others)
    assert {kind.name for kind in ADAPTERS} == {
        f"{method}, written by PEFT" for method in NOT_MADE | PEFT_METHODS.keys()
    }


def tensors_of(known: int, unknown: int) -> dict[str, torch.Tensor]:
    lora = lora_state_dict([random_lora(f"{UNET}{i}", (8, 8)) for i in range(known)])
    return lora | {f"strange.{i}": torch.ones(1) for i in range(unknown)}


def test_unknown_keys_are_listed_until_they_are_more_than_half():
    file = parse_adapter_file(tensors_of(2, 6), "style.safetensors")
    assert len(file.unknown) == 6 and len(file.adapters) == 2
    assert "unknown key: strange.0" in describe_adapter(file)
    words = r"knows 6 of its 13 keys \(unknown is strange\.0\)\. It seems to come from kohya's"
    with pytest.raises(ProLoRAError, match=words):
        parse_adapter_file(tensors_of(2, 7), "style.safetensors", {"ss_network_module": "x"})


def test_no_kind_for_a_lora():
    assert kind_of(tensors_of(2, 0)) is None


def test_the_description_says_what_wrote_it():
    header = {"ss_network_module": "networks.lora"}
    file = parse_adapter_file(tensors_of(1, 0), "style.safetensors", header)
    assert "written by kohya's sd-scripts" in describe_adapter(file)


# Published names of accelerators; and of LoRAs that are none.
FAST = {
    "pytorch_lora_weights_lcm-lora-sdxl.safetensors": "LCM",
    "AnimateLCM_sd15_t2v_lora.safetensors": "LCM",
    "sdxl_lightning_4step_lora.safetensors": "Lightning",
    "Qwen-Image-Lightning-8steps-V1.0.safetensors": "Lightning",
    "Hyper-SDXL-8steps-lora.safetensors": "Hyper-SD",
    "Hyper-FLUX.1-dev-16steps-lora.safetensors": "Hyper-SD",
    "TCD-SDXL-LoRA.safetensors": "TCD",
    "dmd2_sdxl_4step_lora_fp16.safetensors": "DMD2",
    "pcm_sd15_smallcfg_2step_converted.safetensors": "PCM",
    "FLUX.1-Turbo-Alpha.safetensors": "Turbo",
    "Wan21_CausVid_14B_T2V_lora_rank32.safetensors": "CausVid",
    "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors": "LightX2V",
    "FastWan_T2V_14B_480p_lora_rank_64.safetensors": "FastWan",
    "Wan21_AccVid_T2V_14B_lora_rank32.safetensors": "AccVideo",
    "self_forcing_dmd_lora_4steps.safetensors": "DMD2",
    "lcm-lora-sdv1-5/pytorch_lora_weights.safetensors": "LCM",
    "Wan2.1_self-forcing_1.3B_lora.safetensors": "self-forcing",
}
NOT_FAST = (
    *("style.safetensors", "my_style_z_image_turbo.safetensors", "portrait_sdxl-turbo.safetensors"),
    *("DreamShaperXL_Lightning_style.safetensors", "hyperrealism.safetensors", "turbocharger_car"),
    *("lightning_bolt_style.safetensors", "my_turbo_engine.safetensors", "dmd_portrait"),
    *(
        "hyper realistic 3 steps.safetensors",
        "Hyper detailed.safetensors",
        "alcmene.safetensors",
        "sd3.5_large_turbo_style.safetensors",
    ),
)


@pytest.mark.parametrize("name", FAST)
def test_an_accelerator_by_its_name(name):
    assert accelerator_of(name, {}) == FAST[name]


@pytest.mark.parametrize("name", NOT_FAST)
def test_a_style_is_no_accelerator(name):
    assert accelerator_of(name, {}) == ""


def test_an_accelerator_by_its_header():
    assert accelerator_of("a.safetensors", {"modelspec.title": "LCM LoRA SDXL"}) == "LCM"
    assert accelerator_of("a.safetensors", {"ss_output_name": "sdxl_lightning"}) == "Lightning"
    assert accelerator_of("a.safetensors", {"ss_training_comment": "like LCM"}) == ""
    assert {row.name for row in ACCELERATORS} > set(FAST.values()) - {"Turbo"}


def test_the_mark_of_an_accelerator_survives_two_transfers():
    weight = random_weight((24, 16))
    source, target = model_of("a", {UNET: weight}), model_of("b", {UNET: drifted(weight)})
    settings = TransferSettings(threshold=0)
    header: dict[str, str] = {}
    for name in ("lcm-lora.safetensors", "moved.safetensors"):
        tensors = lora_state_dict([random_lora(UNET, (24, 16))])
        result = transfer_lora(parse_adapter_file(tensors, name, header), source, target, settings)
        header = result.metadata()
        assert header["prolora_accelerator"] == "LCM"
        assert "an accelerator (LCM)" in summary_of(result.report)
    style = parse_adapter_file(tensors, "style.safetensors")
    assert "prolora_accelerator" not in transfer_lora(style, source, target, settings).metadata()
