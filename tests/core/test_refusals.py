"""What a transfer refuses, and what it says: the module, the shapes, what to do."""

from dataclasses import replace

import pytest
import torch

from prolora.adapters import LoraAdapter, parse_adapter_file
from prolora.adapters.dora import DoraAdapter
from prolora.errors import ProLoRAError
from prolora.models.key_map import model_of
from prolora.models.references import Slice
from prolora.models.weights import StateDictWeights
from prolora.transfer.job import transfer_lora
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from .small_models import file_of, random_lora, random_weight
from .small_transfer import DRIFTED, FILE, WEIGHTS, run
from .stacks import lora_for, model, stack


def test_no_module_has_its_shape_in_the_target():
    wider = {kind: random_weight((weight.shape[0] + 8, 16)) for kind, weight in WEIGHTS.items()}
    with pytest.raises(
        ProLoRAError, match=r"can be moved from A .*their widths differ .*24 x 16.*Choose a target"
    ):
        run(target=wider)


def test_a_lora_of_another_source():
    with pytest.raises(ProLoRAError, match=r"none of its 3 modules .* is in the source checkpoint"):
        run(source={"other": random_weight((24, 16))})
    wider = {**WEIGHTS, "linear": random_weight((24, 32))}
    with pytest.raises(ProLoRAError, match=r"does not fit .* linear .* 24 x 16, .* is 24 x 32"):
        run(source=wider)


COSMOS, FLUX = "blocks.0.self_attn.q_proj", "double_blocks.0.img_attn.proj"
LIBRARY_COSMOS = "transformer.transformer_blocks.0.attn1.to_q"  # ComfyUI does not know it
LIBRARY_ATTENTION = "transformer.transformer_blocks.0.attn.to_q"
SHARED = "SD3, Flux, Flux.2, Chroma, Qwen-Image or HunyuanVideo"


@pytest.mark.parametrize(
    ("lora", "source", "told", "advice"),
    [
        (LIBRARY_COSMOS, COSMOS, "Cosmos, Anima, PixArt or LTX-Video",
         "Both fit Cosmos or Anima: if this is the checkpoint it was trained on, use a copy of the "
         "LoRA with names such as lora_unet_blocks_0_self_attn_q_proj, which are known here."),
        (LIBRARY_ATTENTION, COSMOS, SHARED, "Choose the checkpoint it was trained on."),
        (f"lora_unet_{FLUX}".replace(".", "_"), COSMOS, "Flux, Flux.2, Chroma or HunyuanVideo",
         "Choose the checkpoint it was trained on."),
        ("other", COSMOS, "no known architecture", "Choose the checkpoint it was trained on."),
    ],
)  # fmt: skip
def test_the_advice_for_unknown_names(lora, source, told, advice):
    """Each of its words was checked: names that fit several architectures are those of all."""
    weights = StateDictWeights({f"{source}.weight": random_weight((24, 16))})
    source = replace(model_of("a.safetensors", weights), architecture="AnyHostClass", hint="")
    with pytest.raises(ProLoRAError) as error:
        resolve(file_of(random_lora(lora, (24, 16))), source)
    assert f"has the names of {told}, and none of its 1 modules" in str(error.value)
    assert str(error.value).endswith(f"a.safetensors (AnyHostClass). {advice}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("side", ["source", "target"])
def test_a_weight_with_nan_or_infinity(side, value):
    weights = {"source": WEIGHTS, "target": DRIFTED}
    broken = weights[side]["linear"].clone()
    broken[3, 5] = value
    weights[side] = {**weights[side], "linear": broken}
    name = {"source": "A", "target": "B"}[side]
    with pytest.raises(ProLoRAError, match=rf"linear\.weight of {name}, shape \[24, 16\], holds"):
        run(**weights)


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int32])
def test_a_quantised_weight(dtype):
    quantised = {**WEIGHTS, "linear": WEIGHTS["linear"].to(dtype)}
    with pytest.raises(ProLoRAError, match=f"linear.weight of A is stored as {dtype}: a quantised"):
        run(source=quantised)


def test_an_update_beyond_all_bounds():
    huge = LoraAdapter("linear", torch.full((24, 2), 1e30), torch.full((2, 16), 1e30), None)
    with pytest.raises(ProLoRAError, match="LoRA of the module linear makes an update beyond all"):
        run(file_of(huge, *FILE.adapters[1:]))


def test_a_module_whose_weight_is_a_vector():
    weights = {**WEIGHTS, "linear": torch.ones(24)}
    file = file_of(random_lora("linear", (24, 1)), *FILE.adapters[1:])
    (row,) = [r for r in run(file, weights, weights).report.rows if r.name == "linear"]
    assert (row.status, row.reason) == ("skipped", "its weight is a vector, which has no subspaces")


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (
            {"mode": "all"},
            "no mode 'all'. Choose one of: auto, calibrated, alike, full, prolora, subspace",
        ),
        ({"threshold": 1.2}, "threshold is 1.2; choose one from 0 to 1"),
        ({"subspace_energy": 1.0}, "between 0 and 1, both excluded"),
        ({"rank": -1}, "choose 0 for the source's, or more"),
        ({"dtype": torch.float16}, "float32 or float64, not in torch.float16"),
    ],
)
def test_settings_out_of_range(choice, words):
    with pytest.raises(ProLoRAError, match=words):
        TransferSettings(**choice)


def test_a_file_of_a_family_that_is_not_moved():
    tensors = {"linear.ia3_l": torch.ones(24, 1)}
    with pytest.raises(ProLoRAError, match="1 modules were looked at; the first: linear: IA3 is"):
        run(parse_adapter_file(tensors, "ia3"))


def test_two_spellings_of_one_module():
    tensors = {"x.lora_up.weight": torch.ones(4, 2), "x.lora_B.weight": torch.zeros(4, 2)}
    with pytest.raises(ProLoRAError, match="two LoRA up tensors for the module x"):
        parse_adapter_file(tensors | {"x.lora_down.weight": torch.ones(2, 3)}, "style.safetensors")


# Architectures

JOINT = {
    "context_block.attn.qkv": random_weight((24, 8)),
    "x_block.attn.qkv": random_weight((24, 8)),
}
DOUBLE = {"img_attn.qkv": random_weight((24, 8), 1), "txt_attn.qkv": random_weight((24, 8), 1)}
FINAL = {"final_layer.linear": random_weight((8, 8))}
SD3 = stack([JOINT] * 12, "joint_blocks")
FLUX = stack([DOUBLE] * 9, "double_blocks")
TEXT = [random_lora(f"lora_te1_text_model_encoder_layers_{i}_mlp_fc1", (16, 8)) for i in range(3)]
SENTENCE = (
    "The LoRA style.safetensors cannot be moved from A (SD3) to B (Flux): they have no blocks in "
    "common."
)


def move_between(source, target, *more, modules=(), architectures=("SD3", "Flux")):
    file = lora_for(source, *modules)
    models = (model("A", source, architecture=architectures[0]), model("B", target))
    models = models[0], replace(models[1], architecture=architectures[1])
    file = replace(file, adapters=(*file.adapters, *more))
    return transfer_lora(file, *models, TransferSettings(threshold=0.0))


OTHERS = {
    "nothing in common": (SD3, FLUX, ()),
    "with text encoders, no CLIP connected": (SD3, FLUX, TEXT),
    "the last layer alone": (
        SD3 | FINAL,
        FLUX | {"final_layer.linear": random_weight((16, 8))},
        (),
    ),
    "a list of one name": (SD3, stack([DOUBLE] * 9, "joint_blocks"), ()),
    "a list of one name and length": (SD3, stack([DOUBLE] * 12, "joint_blocks"), ()),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_architectures_that_share_nothing(kind):
    """One sentence, and both are named in it."""
    source, target, more = OTHERS[kind]
    with pytest.raises(ProLoRAError) as error:
        move_between(source, target, *more)
    assert str(error.value) == SENTENCE


def test_a_lora_of_text_encoders_without_a_clip():
    with pytest.raises(ProLoRAError, match="connect a CLIP to move text encoder modules"):
        run(
            file_of(*TEXT),
            {adapter.name: random_weight((16, 8)) for adapter in TEXT},
            {"img_in": random_weight((16, 8))},
        )


def test_blocks_of_strangers():
    """The same architecture without similar blocks: no message about modules or widths."""
    strangers = stack(
        [
            {name: random_weight((24, 8), 50 + 7 * i + j) for j, name in enumerate(JOINT)}
            for i in range(5)
        ],
        "joint_blocks",
    )
    words = "Nothing of the LoRA .* no block of the target B takes the source's joint_blocks.0"
    with pytest.raises(ProLoRAError, match=words) as error:
        move_between(SD3, strangers, architectures=("SD3", "SD3"))
    assert "width" not in str(error.value)


def test_two_of_one_place_that_cannot_be_joined():
    """A DoRA of the queries beside a LoRA of all of qkv, to a target that has them apart."""
    qkv = random_weight((24, 8))
    part = {"only_q": ("attn.qkv", Slice(0, 0, 8))}
    split = {f"attn.to_{p}": qkv[8 * i : 8 * i + 8] + 0.1 for i, p in enumerate("qkv")}
    whole = random_lora("lora_unet_attn_qkv", (24, 8))
    query = DoraAdapter(random_lora("only_q", (8, 8)), torch.ones(8, 1), axis=0)
    models = model("A", {"attn.qkv": qkv}, part), model("B", split)
    with pytest.raises(
        ProLoRAError, match=r"to_q\.weight, and cannot be joined.* \(LoRA\), only_q \(DoRA\)"
    ):
        transfer_lora(file_of(whole, query), *models, TransferSettings(threshold=0.0))
