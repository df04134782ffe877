"""What an extraction leaves out, and says; what it refuses."""

import json

import pytest
import torch

from prolora.errors import ProLoRAError
from prolora.extraction.extract import IDENTICAL, ROUNDING, Extraction, extract_difference
from prolora.extraction.settings import ExtractionSettings
from prolora.extraction.text import summary_of
from prolora.models.model import Model

from .small_extraction import WHOLE, extracted, full_model, tuned_model
from .small_models import drifted, model_of, random_weight
from .stacks import block, stack
from .stacks import model as model_of_blocks

# Left out, and told


def reasons(result: Extraction) -> dict[str, str]:
    return {row.name: row.reason for row in result.report.rows if row.status == "skipped"}


def test_what_is_identical_rounded_or_small_is_left_out():
    base = {name: random_weight((24, 16), i) for i, name in enumerate(("a", "b", "c", "d", "e"))}
    tuned = {
        "a": base["a"].clone(),
        "b": base["b"].half(),
        "c": base["c"].bfloat16(),
        "d": drifted(base["d"], 5e-5),
        "e": drifted(base["e"], 0.01),
    }
    result = extract_difference(model_of("A", base), model_of("B", tuned))
    assert reasons(result) == {
        "a": IDENTICAL,
        "b": ROUNDING,
        "c": ROUNDING,
        "d": "it differs by less than 0.0001 of itself",
    }
    (adapter,) = result.adapters
    assert adapter.name == "e"
    summary = summary_of(result)
    assert summary.startswith("1 of 5 weights in the LoRA; it keeps 99.")
    assert f"2: {ROUNDING} (b, c)" in summary
    more = extract_difference(model_of("A", base), model_of("B", tuned), WHOLE)
    assert {adapter.name for adapter in more.adapters} == {"d", "e"}


def test_a_difference_that_only_begins_like_rounding():
    base = random_weight((64, 64))
    tuned = base.half().float()
    tuned[60] += 0.1
    result = extracted(base, tuned, ExtractionSettings(1, 1.0))
    assert result.report.rows[0].status == "moved"


def test_what_no_lora_can_name_is_told():
    """Where it differs: what is the same in both needs no name."""
    base, tuned = full_model("A"), tuned_model()
    names = {n: ref for n, ref in base.key_map.items() if "modulation" not in n}
    lacking = Model("A", "SD1", base.weights, names)
    said = reasons(extract_difference(lacking, tuned, WHOLE))
    assert said["diffusion_model.modulation"] == "no name in a LoRA file means it"
    same = full_model("C", **{k: tuned.weights.read(k) for k in tuned.weights if "mod" not in k})
    said = reasons(extract_difference(lacking, same, WHOLE))
    assert said["diffusion_model.modulation"] == IDENTICAL


def test_a_module_of_another_shape_or_in_one_model_alone():
    """An inpainting model's first layer has more inputs."""
    shapes = {f"blocks.{i}.{n}": (16, 16) for i in range(3) for n in ("q", "k")}
    base = {name: random_weight(shape, i) for i, (name, shape) in enumerate(shapes.items())}
    tuned = {name: drifted(weight) for name, weight in base.items()}
    base |= {"conv_in": random_weight((16, 4, 3, 3)), "gone": random_weight((4, 4))}
    tuned |= {"conv_in": random_weight((16, 9, 3, 3)), "new": random_weight((4, 4))}
    result = extract_difference(model_of_blocks("A", base), model_of_blocks("B", tuned))
    said = reasons(result)
    assert said["lora_unet_conv_in"] == "16 x 4 x 3 x 3 in A, 16 x 9 x 3 x 3 in B"
    assert said["lora_unet_gone"] == "not in B"
    assert said["diffusion_model.new.weight"] == "not in the base A"
    assert len(result.adapters) == 6


def test_a_text_encoder_that_one_of_them_lacks():
    base, tuned = full_model("A"), tuned_model()
    names = {n: ref for n, ref in tuned.key_map.items() if "lora_te" not in n}
    result = extract_difference(base, Model("B", "SD1", tuned.weights, names), WHOLE)
    assert "lora_te_layer" not in {row.name for row in result.report.rows}
    note = "B comes without a text encoder, so that of A was not compared"
    assert result.report.notes == (note,)
    assert note in summary_of(result)


def test_report_and_header():
    result = extract_difference(full_model("A"), tuned_model(0.3), ExtractionSettings(4, 0.9))
    rows = {row["name"]: row for row in json.loads(result.report.to_json())["rows"]}
    row = rows["lora_unet_conv"]
    base, tuned = (
        m.weights.read("diffusion_model.conv.weight").double()
        for m in (full_model("A"), tuned_model(0.3))
    )
    assert row["drift"] == pytest.approx(float((tuned - base).norm() / base.norm()), rel=1e-6)
    assert (row["rank_out"], row["family"]) == (4, "LoRA")
    assert row["energy_kept"] + row["energy_dropped"] == pytest.approx(1)
    header = result.metadata()
    assert header["prolora_base"] == "A (SD1)"
    assert header["prolora_tuned"] == "B (SD1)"
    assert (header["prolora_rank"], header["prolora_energy"]) == ("4", "0.9")


def test_an_accelerator_is_marked():
    tuned = tuned_model()
    named = Model("sdxl_lightning_4step.safetensors", "SD1", tuned.weights, tuned.key_map)
    result = extract_difference(full_model("A"), named)
    assert result.metadata()["prolora_accelerator"] == "Lightning"
    assert "- an accelerator (Lightning)" in summary_of(result)


# Refused


def test_models_of_other_depths_are_refused():
    models = (
        model_of_blocks(name, stack([block(seed) for seed in range(count)]))
        for name, count in (("A", 4), ("B", 3))
    )
    with pytest.raises(
        ProLoRAError, match=r"differ in depth: blocks has 4 blocks .*, 3 .*Transfer"
    ):
        extract_difference(*models)


def test_models_of_other_widths_are_refused():
    wide = {"attn.q": (48, 32), "attn.out": (32, 48), "mlp.0": (64, 32)}
    models = model_of_blocks("A", stack([block(1)])), model_of_blocks("B", stack([block(1, wide)]))
    with pytest.raises(
        ProLoRAError, match=r"differ in width \(.* in the base, .* the tuned model\)"
    ):
        extract_difference(*models)


def test_strangers_are_refused():
    models = model_of_blocks("A", stack([block(1)])), model_of_blocks("B", stack([block(1)], "x"))
    with pytest.raises(ProLoRAError, match="have 0 of 3 modules in common"):
        extract_difference(*models)


def test_a_model_and_itself_are_refused():
    with pytest.raises(ProLoRAError, match=r"Nothing of A differs .* 9 are identical.*save"):
        extract_difference(full_model("A"), full_model("A"))


def test_a_weight_that_is_no_number_is_refused():
    base = random_weight((24, 16))
    with pytest.raises(ProLoRAError, match=r"of B, shape .* holds NaN"):
        extracted(base, base * float("nan"))


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"rank": -1}, "rank is -1; choose 1 or more"),
        ({"energy": 0.0}, "energy is 0.0; choose a share above 0"),
        ({"energy": 1.1}, "energy is 1.1"),
        ({"least": 1.0}, "least difference is 1.0"),
        ({"device": torch.device("cuda:99")}, "cuda:99"),
        ({"dtype": torch.float16}, "float32 or float64"),
    ],
)
def test_choices_out_of_range(choices, words):
    with pytest.raises(ProLoRAError, match=words):
        ExtractionSettings(**choices)
