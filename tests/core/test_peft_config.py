"""PEFT's configuration beside the weights, and diffusers' in the header: the alphas are there."""

import copy
import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, get_peft_model

from prolora.adapters import parse_adapter_file, read_adapter_file
from prolora.adapters.peft_config import _VARIANTS
from prolora.errors import ProLoRAError
from prolora.files.safetensors import read_safetensors, write_safetensors

from .libraries import (
    MODULES,
    Net,
    assert_reads_as_written,
    assert_same_updates,
    by_peft,
    randomise,
    updates_in,
)
from .strategies import formed, relative_error

TARGETS = {"target_modules": list(MODULES)}
NOTE = "ComfyUI's own loader does not read it and would use scale 1"
# The configuration, and PEFT's scale for linear, conv1 and conv3.
CONFIGS = {
    "alpha": (LoraConfig(r=4, lora_alpha=6, **TARGETS), (6 / 4, 6 / 4, 6 / 4)),
    "ranks": (
        LoraConfig(r=4, lora_alpha=6, rank_pattern={"conv3": 2}, **TARGETS),
        (6 / 4, 6 / 4, 6 / 2),
    ),
    "alphas": (
        LoraConfig(r=4, lora_alpha=6, alpha_pattern={"conv3": 1, "c.*1": 12}, **TARGETS),
        (6 / 4, 12 / 4, 1 / 4),
    ),
    "the first pattern wins": (
        LoraConfig(r=4, lora_alpha=6, alpha_pattern={"^conv.": 3, "conv3": 12}, **TARGETS),
        (6 / 4, 3 / 4, 3 / 4),
    ),
    "the end of a name is not a part of a word": (
        LoraConfig(r=4, lora_alpha=6, alpha_pattern={"onv3": 12, "conv": 12}, **TARGETS),
        (6 / 4, 6 / 4, 6 / 4),
    ),
    "rank-stabilised": (
        LoraConfig(r=4, lora_alpha=6, use_rslora=True, rank_pattern={"conv3": 2}, **TARGETS),
        (6 / 2, 6 / 2, 6 / math.sqrt(2)),
    ),
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_lora(tmp_path, kind):
    config, _ = CONFIGS[kind]
    written = by_peft(tmp_path, config)
    assert_reads_as_written(written)
    (note,) = read_adapter_file(written.path).notes
    assert note == f"alpha from adapter_config.json; {NOTE}"


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_file_alone_means_scale_1(tmp_path, kind):
    """As every loader of single files reads it; under another name the configuration is not its."""
    config, scales = CONFIGS[kind]
    written = by_peft(tmp_path, config)
    alone = written.path.rename(tmp_path / "style.safetensors")
    file = read_adapter_file(alone)
    assert ({adapter.alpha for adapter in file.adapters}, file.notes) == ({None}, ())
    scale = dict(zip(MODULES, scales, strict=True))
    want = {name: value / scale[name.split(".")[-1]] for name, value in written.updates.items()}
    assert_same_updates(updates_in(alone, written.weights), want)
    for name, value in want.items():
        assert relative_error(value, written.updates[name]) > 0.1


@pytest.mark.parametrize("config", [LoHaConfig, LoKrConfig])
@pytest.mark.parametrize(
    "choices", [{}, {"rank_pattern": {"linear": 3}, "alpha_pattern": {"conv1": 1}}]
)
def test_loha_and_lokr(tmp_path, config, choices):
    written = by_peft(tmp_path, config(r=2, alpha=5, **TARGETS, **choices))
    assert_reads_as_written(written)
    assert read_adapter_file(written.path).notes


def test_a_scale_of_1_needs_no_note(tmp_path):
    written = by_peft(tmp_path, LoraConfig(r=4, lora_alpha=4, **TARGETS))
    assert_reads_as_written(written)
    assert read_adapter_file(written.path).notes == ()


def test_an_alpha_in_the_file_wins(tmp_path):
    written = by_peft(tmp_path, LoraConfig(r=4, lora_alpha=6, **TARGETS))
    tensors, _ = read_safetensors(written.path)
    tensors["base_model.model.linear.alpha"] = torch.tensor(2.0)
    write_safetensors(tensors, written.path, {})
    alphas = {adapter.name: adapter.alpha for adapter in read_adapter_file(written.path).adapters}
    assert alphas == {f"base_model.model.{n}": a for n, a in zip(MODULES, (2, 6, 6), strict=True)}


@pytest.mark.filterwarnings("ignore::peft.utils.save_and_load.PeftWarning")  # of the biases' shape
def test_the_bias_of_a_lora(tmp_path):
    """lora_bias=True: the bias of PEFT's merged module less the one before."""
    torch.manual_seed(0)
    base = Net()
    config = LoraConfig(r=4, lora_alpha=6, use_rslora=True, lora_bias=True, **TARGETS)
    model = get_peft_model(copy.deepcopy(base), config)
    randomise(model)
    model.save_pretrained(tmp_path)
    merged = model.merge_and_unload()
    file = read_adapter_file(tmp_path / "adapter_model.safetensors")
    got = {part.name.split(".")[-1]: part for part in file.vector_patches}
    assert got.keys() == set(MODULES)
    assert file.unknown == ()
    tensors, _ = read_safetensors(tmp_path / "adapter_model.safetensors")
    for name in MODULES:
        want = (merged.get_submodule(name).bias - base.get_submodule(name).bias).detach().numpy()
        unscaled = tensors[f"base_model.model.{name}.lora_B.bias"].numpy()
        assert relative_error(unscaled, want) > 0.1
        assert relative_error(got[name].tensor.numpy(), want) < 1e-5
        assert got[name].role == "diff_b"


def header_file(folder: Path, prefix: str, component: str) -> tuple[Path, dict[str, np.ndarray]]:
    """PEFT's file as diffusers writes it: other names, and PEFT's own configuration as metadata."""
    config = LoraConfig(
        r=4, lora_alpha=6, rank_pattern={"conv3": 2}, alpha_pattern={"conv1": 1}, **TARGETS
    )
    written = by_peft(folder, config)
    tensors = {
        key.replace("base_model.model.", prefix): tensor
        for key, tensor in read_safetensors(written.path)[0].items()
    }
    fields = json.loads((folder / "adapter_config.json").read_text())
    metadata = {"lora_adapter_metadata": json.dumps({component + k: v for k, v in fields.items()})}
    path = folder / "pytorch_lora_weights.safetensors"
    write_safetensors(tensors, path, metadata)
    return path, {k.replace("base_model.model.", prefix): v for k, v in written.updates.items()}


@pytest.mark.parametrize(
    ("prefix", "component"),
    [
        ("transformer.", "transformer."),
        ("unet.", "unet."),
        ("", ""),
        ("diffusion_model.", "transformer."),  # ComfyUI's names for the same
    ],
)
def test_the_header_of_diffusers(tmp_path, prefix, component):
    path, updates = header_file(tmp_path, prefix, component)
    weights = {prefix + name: Net().get_submodule(name).weight.detach() for name in MODULES}
    assert_same_updates(updates_in(path, weights), updates)
    (note,) = read_adapter_file(path).notes
    assert note == f"alpha from the header's lora_adapter_metadata; {NOTE}"


def test_each_component_has_its_own_alpha():
    tensors = {}
    for name in ("unet.to_q", "text_encoder.q_proj", "text_encoder_2.q_proj"):
        tensors |= {f"{name}.lora_B.weight": torch.ones(24, 4)}
        tensors |= {f"{name}.lora_A.weight": torch.ones(4, 16)}
    fields = {"unet.r": 4, "unet.lora_alpha": 8, "text_encoder.r": 4, "text_encoder.lora_alpha": 2}
    metadata = {"lora_adapter_metadata": json.dumps(fields)}
    file = parse_adapter_file(tensors, "file", metadata)
    scales = [formed(a.update(torch.zeros(24, 16)))[0, 0] / 4 for a in file.adapters]
    assert scales == pytest.approx([2, 0.5, 1])


# What PEFT marks as a variant and trains a LoRA's factors as ever with.
READ_VARIANTS = {"use_dora", "velora_config"}


def test_every_variant_of_peft_s_lora_is_read_or_refused():
    fields = dataclasses.fields(LoraConfig)
    marked = {field.name for field in fields if field.metadata.get("is_lora_variant")}
    assert marked | {"use_qalora"} == READ_VARIANTS | set(_VARIANTS)


GOOD = {"peft_type": "LORA", "r": 4, "lora_alpha": 6}
BAD = {
    "no JSON": ("{", r"adapter_config\.json beside it is damaged, it is no JSON: .* again"),
    "empty": ("", "is no JSON"),
    "no text": (b"\xff\xfe\x00", "cannot be read"),
    "deep": ("[" * 100_000, "is no JSON"),
    "a list": ([], "is no configuration but a list"),
    "another type": ({**GOOD, "peft_type": "VERA"}, "is of PEFT's type VERA. ProLoRA reads LORA,"),
    "a type of a type": ({**GOOD, "peft_type": ["LORA"]}, r"is of PEFT's type \['LORA'\]"),
    "a model's config": ({"hidden_size": 64}, "has no peft_type. .* export the adapter"),
    "transposed": ({**GOOD, "fan_in_fan_out": True}, "fan_in_fan_out"),
    "pissa": ({**GOOD, "init_lora_weights": "pissa_niter_4"}, "pissa_niter_4, which changes the"),
    "olora": ({**GOOD, "init_lora_weights": "olora"}, "path_initial_model_for_weight_conversion"),
    "aLoRA": (
        {**GOOD, "alora_invocation_tokens": [1]},
        "a variant of LoRA that ProLoRA does not read: aLoRA .*Merge it",
    ),
    "QALoRA": ({**GOOD, "use_qalora": True}, "does not read: QALoRA .*Merge it"),
    "alpha as text": ({**GOOD, "lora_alpha": "6"}, "lora_alpha in PEFT's configuration is '6'"),
    "alpha NaN": ({**GOOD, "lora_alpha": math.nan}, "is nan, not a number"),
    "alpha as truth": ({**GOOD, "lora_alpha": True}, "is True, not a number"),
    "alpha beyond floats": ({**GOOD, "lora_alpha": 10**400}, "not a number"),
    "no rank": ({"peft_type": "LORA", "lora_alpha": 6}, "r in PEFT's configuration is missing"),
    "another rank": ({**GOOD, "r": 8}, "says rank 8 for the module .*factors have rank 4.*another"),
    "rank 0": ({**GOOD, "r": 0}, "says rank 0"),
    "no pattern": ({**GOOD, "rank_pattern": {"(": 4}}, "no pattern: .* again"),
    "a pattern that takes for ever": (
        {**GOOD, "rank_pattern": {"(.+)+!": 4}},
        "no pattern: it may take for ever to find out where it fits.* again",
    ),
    "a pattern beyond bounds": ({**GOOD, "rank_pattern": {"l{99999999999}": 4}}, "no pattern: "),
    "too many patterns": (
        {**GOOD, "rank_pattern": {str(i): 4 for i in range(5000)}},
        "rank_pattern .* is no table of at most 4096",
    ),
    "no table": ({**GOOD, "alpha_pattern": [1]}, "alpha_pattern .* is no table"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_configurations(tmp_path, kind):
    config, words = BAD[kind]
    tensors = {
        "base_model.model.linear.lora_B.weight": torch.ones(24, 4),
        "base_model.model.linear.lora_A.weight": torch.ones(4, 16),
    }
    path = tmp_path / "adapter_model.safetensors"
    write_safetensors(tensors, path, {})
    text = config if isinstance(config, str | bytes) else json.dumps(config)
    beside = tmp_path / "adapter_config.json"
    beside.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ProLoRAError, match=rf"(?s)adapter_(model|config).*{words}"):
        read_adapter_file(path)


def test_a_file_is_called_by_its_folder_wherever_one_is(tmp_path, monkeypatch):
    folder = tmp_path / "ink"
    folder.mkdir()
    tensors = {"linear.lora_B.weight": torch.ones(24, 4), "linear.lora_A.weight": torch.ones(4, 16)}
    write_safetensors(tensors, folder / "adapter_model.safetensors", {})
    monkeypatch.chdir(folder)
    file = read_adapter_file(Path("adapter_model.safetensors"))
    assert file.name == "ink/adapter_model.safetensors"


def test_a_bad_header():
    tensors = {"unet.q.lora_B.weight": torch.ones(24, 4), "unet.q.lora_A.weight": torch.ones(4, 16)}
    for text in ("{", "[]", '{"unet.peft_type": "VERA"}'):
        with pytest.raises(ProLoRAError, match=r"^style\.safetensors: .*(again|export)"):
            parse_adapter_file(tensors, "style.safetensors", {"lora_adapter_metadata": text})
