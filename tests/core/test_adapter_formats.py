"""Files as the libraries write them, and ours as the libraries read them: the same update."""

import copy
from pathlib import Path

import lycoris
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

from prolora.adapters import (
    FullDifference,
    LoraAdapter,
    lora_state_dict,
    parse_adapter_file,
    read_adapter_file,
)
from prolora.adapters.suffixes import ROLES, SUFFIXES, split_key
from prolora.errors import ProLoRAError
from prolora.files.safetensors import read_safetensors, write_safetensors

from .libraries import (
    MODULES,
    Net,
    Written,
    assert_reads_as_written,
    assert_same_updates,
    by_lycoris,
    by_peft,
    flat,
    lycoris_updates,
)
from .small_models import delta, random_lora


def test_peft(tmp_path):
    """Its alphas lie beside the weights: test_peft_config.py has more."""
    config = LoraConfig(r=4, lora_alpha=6, rank_pattern={"conv3": 2}, target_modules=list(MODULES))
    written = by_peft(tmp_path, config)
    file = read_adapter_file(written.path)
    assert [(a.rank, a.alpha) for a in file.adapters] == [(4, 6.0), (2, 6.0), (4, 6.0)]
    assert (file.families, file.unknown) == (("LoRA",), ())
    assert_reads_as_written(written)


def test_lycoris(tmp_path):
    written = by_lycoris(tmp_path)
    file = read_adapter_file(written.path)
    assert [(a.rank, a.alpha) for a in file.adapters] == [(4, 1.5), (2, 6.0), (4, 1.5)]
    assert (file.families, file.unknown) == (("LoRA",), ())
    assert_reads_as_written(written)


def test_lycoris_with_a_tucker_core(tmp_path):
    written = by_lycoris(tmp_path, use_tucker=True)
    assert any(key.endswith("lora_mid.weight") for key in read_safetensors(written.path)[0])
    assert_reads_as_written(written)


def our_file(folder: Path, written: Written) -> Path:
    """The same LoRA with factors of our own, written by us."""
    moved = []
    for adapter in read_adapter_file(written.path).adapters:
        weight = written.weights[adapter.name]
        moved.append(adapter.retarget(adapter.update(weight), 0, weight, weight).adapter)
    write_safetensors(lora_state_dict(moved), folder / "ours.safetensors", {})
    return folder / "ours.safetensors"


@pytest.mark.parametrize("tucker", [False, True])
def test_lycoris_reads_what_we_write(tmp_path, tucker):
    written = by_lycoris(tmp_path, use_tucker=tucker)
    ours = str(our_file(tmp_path, written))
    network, _ = lycoris.create_lycoris_from_weights(1, ours, Net())
    assert_same_updates(lycoris_updates(network), written.updates)


def test_peft_reads_what_we_write(tmp_path):
    """Under PEFT's own names; alpha equals the rank, so that its absence changes nothing."""
    written = by_peft(tmp_path, LoraConfig(r=4, lora_alpha=4, target_modules=list(MODULES)))
    ours = our_file(tmp_path, written)
    roles = {".lora_up.": ".lora_B.", ".lora_down.": ".lora_A."}
    tensors = {}
    for adapter in read_adapter_file(ours).adapters:
        assert adapter.alpha == adapter.rank
        for key, tensor in lora_state_dict([adapter]).items():
            for old, new in roles.items():
                if old in key:
                    tensors[key.replace(old, new)] = tensor
    base = Net()
    config = LoraConfig(r=4, lora_alpha=4, target_modules=list(MODULES))
    model = get_peft_model(copy.deepcopy(base), config)
    outcome = set_peft_model_state_dict(model, tensors)
    assert outcome.unexpected_keys == []
    merged = model.merge_and_unload()
    got = {
        f"base_model.model.{name}": flat(
            merged.get_submodule(name).weight - base.get_submodule(name).weight
        )
        for name in MODULES
    }
    assert_same_updates(got, written.updates)


PAIRS = [
    ("lora_up.weight", "lora_down.weight", "."),
    ("lora.up.weight", "lora.down.weight", "_"),
    ("lora.up.weight", "lora.down.weight", "."),
    ("lora_linear_layer.up.weight", "lora_linear_layer.down.weight", "."),
    ("lora_B.weight", "lora_A.weight", "."),
    ("lora_B", "lora_A", "."),
]
MODULE = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q"


@pytest.mark.parametrize(("up", "down", "joint"), PAIRS)
def test_every_spelling_of_a_pair(up, down, joint):
    want = random_lora(MODULE, (24, 16))
    tensors = {f"{MODULE}{joint}{up}": want.up, f"{MODULE}{joint}{down}": want.down}
    (got,) = parse_adapter_file(tensors, "file").adapters
    assert got.name == MODULE
    np.testing.assert_array_equal(delta(got), delta(want))


def test_every_suffix_has_a_row_above():
    suffixes = {f"{joint}{part}" for up, down, joint in PAIRS for part in (up, down)}
    assert suffixes | {".lora_mid.weight"} == set(SUFFIXES["LoRA"])


@pytest.mark.parametrize("suffix", list(ROLES))
def test_a_key_is_split_at_its_longest_suffix(suffix):
    assert split_key(MODULE + suffix) == (MODULE, suffix)
    assert split_key(suffix) is None


@pytest.mark.parametrize("adapter", ["default", "my_style"])
@pytest.mark.parametrize("suffix", [".lora_A.weight", ".lora_B.bias", ".hada_w1_a"])
def test_the_name_of_a_peft_adapter_is_left_out(suffix, adapter):
    role, _, kind = suffix[1:].partition(".")
    key = ".".join(filter(None, (MODULE, role, adapter, kind)))
    assert split_key(key) == (MODULE, suffix)


@pytest.mark.parametrize("role", ["diff", "up"])
@pytest.mark.parametrize("size", [1e-9, 1e-8, 1e-7])
def test_what_fp16_rounds_to_nothing_is_refused(role, size):
    """As a `.diff` of a nearly untrained layer is; bf16 has the exponents of float32."""
    small = size * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
    lora = LoraAdapter("m", small, torch.ones(4, 8), None)
    adapter = FullDifference("m", small) if role == "diff" else lora
    with pytest.raises(ProLoRAError, match=r"module m .* only, which float16 rounds to nothing"):
        lora_state_dict([adapter], torch.float16)
    for dtype in (torch.bfloat16, torch.float32):
        lora_state_dict([adapter], dtype)


def test_what_fp16_holds_is_written():
    for size in (1e-4, 1e-5, 1.0, 1e3):
        diff = size * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        lora_state_dict([FullDifference("m", diff)], torch.float16)
    lora_state_dict([FullDifference("m", torch.zeros(16, 4))], torch.float16)
