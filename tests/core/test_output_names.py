"""Names of the written file: the same change of every weight, called otherwise."""

import copy
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import save_file

from prolora.adapters import LoraAdapter, VectorPatch, lora_state_dict, parse_adapter_file
from prolora.adapters.dora import DoraAdapter
from prolora.command_line import main
from prolora.files.safetensors import read_safetensors
from prolora.models.key_map import model_of
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.naming.output_names import CHOICES, rename

from . import host_names
from .checkpoints import SD3, SD15, SDXL
from .libraries import MODULES, Net
from .small_models import delta, drifted, random_lora, random_weight
from .strategies import relative_error

FLUX = host_names.flux()
MAPS = {"Flux": FLUX, "ZImage": host_names.z_image(), "WAN21_T2V": host_names.wan()}
# Where a LoRA of each architecture may come from: how its names begin.
SOURCES = [
    *(("Flux", start) for start in ("lora_unet_", "transformer.", "lora_transformer_")),
    *(("ZImage", start) for start in ("lora_unet_", "diffusion_model.layers.0.attention.to_")),
    *(("WAN21_T2V", start) for start in ("lora_unet_", "diffusion_model.")),
]
# Names of Flux.2's modules, which the host knows for every Flux.
FLUX2 = re.compile(r".*single_transformer_blocks.0.attn.to_(qkv_mlp_proj|out)$")


def loras(names: dict[str, WeightRef], start: str) -> list[LoraAdapter]:
    """A LoRA of rank 2 and alpha 1 for every module whose name begins so."""
    made = []
    for seed, (name, ref) in enumerate(names.items()):
        if name.startswith(start) and not FLUX2.match(name):
            rows = ref.part.length if ref.part else host_names.rows_of(names, ref.key)
            made.append(random_lora(name, (rows, 6), rank=2, alpha=1.0, seed=10 * seed))
    return made


def changes(adapters, names: dict[str, WeightRef]) -> dict[str, np.ndarray]:
    """What the host adds to every weight, as its own loader does it."""
    total: dict[str, np.ndarray] = {}
    for adapter in adapters:
        ref = names[adapter.name]
        update = delta(adapter)
        update = ref.reordered(torch.from_numpy(update)).numpy()
        shape = host_names.rows_of(names, ref.key), update.shape[1]
        start = ref.part.start if ref.part else 0
        weight = total.setdefault(ref.key, np.zeros(shape))
        weight[start : start + len(update)] += update
    return total


def assert_same(adapters, others, names: dict[str, WeightRef]) -> None:
    before, after = changes(adapters, names), changes(others, names)
    assert before.keys() == after.keys()
    for key, update in before.items():
        assert relative_error(update, after[key]) < 1e-6, key


@pytest.mark.parametrize(("architecture", "start"), SOURCES)
@pytest.mark.parametrize("choice", ["auto", "kohya", "comfyui", "diffusers"])
def test_every_naming_means_the_same_change(architecture, start, choice):
    names = MAPS[architecture]
    adapters = loras(names, start)
    assert len(adapters) > 2
    named = rename(adapters, names, architecture, choice)
    assert_same(adapters, named.adapters, names)
    assert len({adapter.name for adapter in named.adapters}) == len(named.adapters)
    assert all(adapter.scale == 1 for adapter in named.adapters if adapter.rank != 2)


def test_a_joined_weight_needs_every_down():
    """The measure of the tests above tells the mistake that some converters make."""
    adapters = [
        a for a in loras(FLUX, "transformer.") if ".transformer_blocks.0.attn.to_" in a.name
    ]
    named = rename(adapters, FLUX, "Flux", "kohya").adapters
    (joined,) = (adapter for adapter in named if adapter.name.endswith("img_attn_qkv"))
    assert joined.rank == 6 and joined.alpha == 6
    first_down = joined.down[:2].repeat(3, 1)
    wrong = changes([replace(joined, down=first_down)], FLUX)
    (key,) = wrong
    assert relative_error(changes(adapters, FLUX)[key], wrong[key]) > 0.5


def test_a_missing_part_of_a_joined_weight_has_zero_rows():
    adapters = [
        a for a in loras(FLUX, "transformer.") if a.name.endswith(("attn.to_q", "attn.to_v"))
    ]
    named = rename(adapters, FLUX, "Flux", "kohya").adapters
    assert_same(adapters, named, FLUX)
    for adapter in named:
        assert not adapter.up[8:16].any() and adapter.up[:8].any() and adapter.up[16:24].any()


def test_there_and_back_gives_the_same_rank():
    """The parts of what was one LoRA share their down, and it is not stacked three times."""
    adapters = loras(FLUX, "lora_unet_")
    split = rename(adapters, FLUX, "Flux", "diffusers")
    assert len(split.adapters) > len(adapters) and "split" in " ".join(split.notes)
    back = rename(split.adapters, FLUX, "Flux", "kohya")
    assert {a.name: a.rank for a in back.adapters} == {a.name: a.rank for a in adapters}
    assert_same(adapters, back.adapters, FLUX)


def test_a_reordered_weight_is_reordered():
    """Diffusers has scale and shift of the last modulation the other way round."""
    (adapter,) = (a for a in loras(FLUX, "transformer.norm_out"))
    (named,) = rename([adapter], FLUX, "Flux", "comfyui").adapters
    assert named.name == "diffusion_model.final_layer.adaLN_modulation.1"
    assert relative_error(delta(adapter), delta(named)) > 0.5
    assert_same([adapter], [named], FLUX)


SD15_ATTENTION = "down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q"
OLD_ATTENTION = SD15_ATTENTION.replace("_to_q", "_processor_to_q")
SDXL_ATTENTION = "input_blocks_4_1_transformer_blocks_0_attn1_to_q"
LAYER = "text_model_encoder_layers_0_mlp_fc1"
# Architecture by the host's name and by ours, a module, its usual name.
USUAL = [
    *((a, SD15, f"unet.{OLD_ATTENTION}", f"lora_unet_{SD15_ATTENTION}") for a in ("SD15", "SD21")),
    ("SD1.x or SD2.x", SD15, "diffusion_model.out.2", "lora_unet_conv_out"),
    ("SD15", SD15, f"lora_te1_{LAYER}", f"lora_te_{LAYER}"),
    *((a, SDXL, "diffusion_model.out.2", "lora_unet_out_2") for a in ("SDXL", "SSD1B")),
    ("SDXL", SDXL, f"lora_te_{LAYER}", f"lora_te1_{LAYER}"),
    ("SDXL", SDXL, f"lora_te2_{LAYER}", f"lora_te2_{LAYER}"),
]


@pytest.mark.parametrize(("architecture", "checkpoint", "name", "usual"), USUAL)
def test_auto_for_unets(architecture, checkpoint, name, usual):
    names = model_of("", StateDictWeights(checkpoint)).key_map
    dotted = {known.replace(".", "_"): known for known in names}
    adapter = random_lora(dotted[name.replace(".", "_")], (8, 8))
    (named,) = rename([adapter], names, architecture).adapters
    assert named.name == usual and names[usual] == names[adapter.name]


TRANSFORMERS = [
    ("Flux", "lora_transformer_transformer_blocks_0_attn_to_q", "transformer.transformer_blocks.0"),
    ("FluxSchnell", "lycoris_single_transformer_blocks_0_proj_mlp", "transformer.single_"),
    ("Flux", "diffusion_model.double_blocks.0.img_attn.qkv", "lora_unet_double_blocks_0_img_attn"),
    ("ZImage", "transformer.layers.0.attention.to_q", "diffusion_model.layers.0.attention.to_q"),
    ("ZImage", "lora_unet_layers_0_attention_qkv", "diffusion_model.layers.0.attention.qkv"),
    ("Lumina 2 / Z-Image", "lora_unet_layers_0_attention_to_q", "diffusion_model.layers.0.att"),
    ("WAN21_T2V", "transformer.blocks.0.attn1.to_q", "diffusion_model.blocks.0.self_attn.q"),
    ("Wan", "lora_unet__blocks_0_ffn_0", "diffusion_model.blocks.0.ffn.0"),
]


@pytest.mark.parametrize(("architecture", "name", "usual"), TRANSFORMERS)
def test_auto_for_transformers_keeps_what_is_fused_and_what_is_split(architecture, name, usual):
    names = FLUX if architecture.startswith("Flux") else MAPS["WAN21_T2V"]
    names = MAPS["ZImage"] if "Image" in architecture else names
    (named,) = (renamed := rename([random_lora(name, (8, 6))], names, architecture)).adapters
    assert named.name.startswith(usual) and named.name in names
    assert renamed.notes == ()


@pytest.mark.parametrize("choice", ["auto", "kohya", "diffusers"])
def test_what_cannot_be_joined_or_split_keeps_a_name_of_its_own(choice):
    """A DoRA on one part, a difference of a fused bias: under a name that means just that."""
    part = "transformer.transformer_blocks.0.attn.to_q"
    dora = DoraAdapter(random_lora(part, (8, 6)), random_weight((8, 1)), 0)
    bias = VectorPatch("lora_unet_double_blocks_0_img_attn_qkv", "diff_b", random_weight((24,)))
    named = rename([dora, bias], FLUX, "Flux", choice)
    places = [FLUX[adapter.name] for adapter in named.adapters]
    assert places == [FLUX[part], FLUX[bias.name]]
    assert any("no name in this naming" in note for note in named.notes)
    tensors = lora_state_dict(named.adapters, style=named.style)
    assert sum(key.endswith(".diff_b") for key in tensors) == 1


def test_two_loras_of_one_weight_keep_their_names():
    """Of which the host takes the last of its key map, whatever they are called."""
    twice = [
        random_lora("lora_unet_img_in", (16, 6)),
        random_lora("transformer.x_embedder", (16, 6)),
    ]
    assert rename(twice, FLUX, "Flux", "comfyui").adapters == tuple(twice)


def test_source_and_unknown_names_stay():
    adapters = [random_lora("transformer.base_model.model.x_embedder", (16, 6))]
    assert rename(adapters, FLUX, "Flux", "source").adapters == tuple(adapters)
    stranger = [random_lora("some.module", (16, 6))]
    named = rename(stranger, FLUX, "Flux")
    assert named.adapters == tuple(stranger) and "some.module" in named.notes[0]


def test_a_choice_for_each_naming():
    assert set(CHOICES) == {"auto", "source", "kohya", "comfyui", "diffusers", "peft"}


# PEFT itself reads what we write for it.

NET = {f"diffusion_model.{name}": WeightRef(f"diffusion_model.{name}.weight") for name in MODULES}


def merged_by_peft(folder, adapters, **options) -> tuple[Net, Net]:
    """The network before and after PEFT merged our file into it."""
    named = rename(adapters, NET, "", "peft")
    save_file(
        lora_state_dict(named.adapters, style=named.style), folder / "adapter_model.safetensors"
    )
    LoraConfig(r=4, lora_alpha=4, target_modules=list(MODULES), **options).save_pretrained(folder)
    torch.manual_seed(0)
    base = Net()
    return base, PeftModel.from_pretrained(copy.deepcopy(base), folder).merge_and_unload()


@pytest.mark.parametrize("dora", [False, True])
def test_peft_reads_its_own_naming(tmp_path, dora, recwarn):
    torch.manual_seed(0)
    weights = {name: Net().get_submodule(name).weight.detach() for name in MODULES}
    adapters = [
        random_lora(f"diffusion_model.{n}", tuple(w.shape), rank=4, alpha=1.5, seed=20 + i)
        for i, (n, w) in enumerate(weights.items())
    ]
    if dora:
        ones = [(1,) * (w.ndim - 1) for w in weights.values()]
        adapters = [
            DoraAdapter(a, random_weight((a.up.shape[0], *one)).abs() + 1, 0)
            for a, one in zip(adapters, ones, strict=True)
        ]
    base, merged = merged_by_peft(tmp_path, adapters, use_dora=dora)
    assert not [warning for warning in recwarn if "missing" in str(warning.message)]
    for name, adapter in zip(MODULES, adapters, strict=True):
        weight = base.get_submodule(name).weight.detach().double().flatten(1).numpy()
        wanted = weight + delta(adapter.direction if dora else adapter)
        if dora:
            norms = np.linalg.norm(wanted, axis=1, keepdims=True)
            wanted *= adapter.magnitude.double().reshape(-1, 1).numpy() / norms
        found = merged.get_submodule(name).weight.detach().double().flatten(1).numpy()
        assert relative_error(wanted, weight) > 0.1
        assert relative_error(wanted, found) < 1e-5, name


def test_suffixes():
    adapter = DoraAdapter(random_lora("m", (8, 6), alpha=1.0), random_weight((8, 1)), 0)
    keys = {style: set(lora_state_dict([adapter], style=style)) for style in ("kohya", "diffusers")}
    assert keys["kohya"] == {"m.lora_up.weight", "m.lora_down.weight", "m.alpha", "m.dora_scale"}
    assert keys["diffusers"] == {"m.lora_B.weight", "m.lora_A.weight", "m.dora_scale"}
    for style in ("kohya", "diffusers", "peft"):
        (read,) = parse_adapter_file(lora_state_dict([adapter], style=style), "file").adapters
        assert relative_error(delta(adapter.direction), delta(read.direction)) < 1e-6
        assert torch.equal(read.magnitude, adapter.magnitude)


def test_the_command_line_writes_the_naming_that_is_asked_for(tmp_path, capsys):
    save_file(SD3, tmp_path / "a.safetensors")
    target = {key: drifted(weight, seed=100 + i) for i, (key, weight) in enumerate(SD3.items())}
    save_file(target, tmp_path / "b.safetensors")
    lora = [random_lora("lora_unet_joint_blocks_0_x_block_attn_qkv", (8, 8), rank=2)]
    save_file(lora_state_dict(lora), tmp_path / "style.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in ("style", "a", "b", "out")]
    command = ["transfer", files[0], "--source", files[1], "--target", files[2], "-o", files[3]]
    assert main([*command, "--threshold", "0.1", "--naming", "comfyui", "--dtype", "fp32"]) == 0
    keys = read_safetensors(tmp_path / "out.safetensors")[0]
    assert {key.split(".lora_")[0].removesuffix(".alpha") for key in keys} == {
        "diffusion_model.joint_blocks.0.x_block.attn.qkv"
    }
