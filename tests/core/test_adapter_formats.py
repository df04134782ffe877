"""Files as the libraries write them, and ours as the libraries read them: the same update."""

import copy
import logging
from pathlib import Path

import lycoris
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from torch import nn
from torch.nn import Conv2d, LayerNorm, Linear

from prolora.adapters import lora_state_dict, parse_adapter_file, read_adapter_file
from prolora.adapters.naming import ROLES, SUFFIXES, split_key
from prolora.files import write_safetensors

from .small_models import delta, random_lora
from .strategies import dense, relative_error

logging.getLogger("LyCORIS").setLevel(logging.ERROR)

MODULES = ("linear", "conv1", "conv3")
ANY = torch.zeros(())  # a LoRA does not ask for the weight it changes


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = Linear(16, 24)
        self.conv1 = Conv2d(8, 12, 1)
        self.conv3 = Conv2d(8, 12, 3)
        self.norm = LayerNorm(16)


def randomise(network: nn.Module) -> None:
    """Trained values: a fresh adapter is zero on one side."""
    for parameter in network.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)


def peft_file(folder: Path, config) -> tuple[Path, dict[str, np.ndarray]]:
    """What PEFT saves, and the updates that it makes itself when it merges."""
    base = Net()
    model = get_peft_model(copy.deepcopy(base), config)
    randomise(model)
    model.save_pretrained(folder)
    merged = model.merge_and_unload()
    return folder / "adapter_model.safetensors", {
        f"base_model.model.{name}": difference(merged.get_submodule(name), base.get_submodule(name))
        for name in MODULES
    }


def lycoris_file(folder: Path, **choices) -> tuple[Path, dict[str, np.ndarray]]:
    """The same for LyCORIS (kohya's layout)."""
    network = lycoris.create_lycoris(
        Net(), **{"linear_dim": 4, "linear_alpha": 1.5, "conv_dim": 2, "conv_alpha": 6, **choices}
    )
    network.apply_to()
    randomise(network)
    path = folder / "lycoris.safetensors"
    network.save_weights(str(path), torch.float32, {})
    return path, lycoris_updates(network)


def lycoris_updates(network) -> dict[str, np.ndarray]:
    return {
        module.lora_name: flat(module.get_merged_weight()[0] - module.org_weight)
        for module in network.loras
        if module.org_weight.ndim > 1  # the norms have no matrix
    }


def difference(merged: nn.Module, base: nn.Module) -> np.ndarray:
    return flat(merged.weight - base.weight)


def flat(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().double().flatten(1).numpy()


def updates_in(path: Path) -> dict[str, np.ndarray]:
    return {
        adapter.name: dense(adapter.update(ANY)) for adapter in read_adapter_file(path).adapters
    }


def assert_same_updates(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> None:
    assert got.keys() == want.keys()
    for name, value in want.items():
        assert np.linalg.norm(value) > 0.1
        # A merge adds a float32 update to a float32 weight: its rounding is of the weight's size.
        assert relative_error(got[name], value) < 1e-5, name


def test_peft(tmp_path):
    """PEFT keeps alpha in adapter_config.json, beside the weights: the file alone says scale 1.

    Every loader of single files, ComfyUI's included, reads it so; the scale is divided out here.
    """
    config = LoraConfig(r=4, lora_alpha=6, rank_pattern={"conv3": 2}, target_modules=list(MODULES))
    path, want = peft_file(tmp_path, config)
    scales = {"linear": 6 / 4, "conv1": 6 / 4, "conv3": 6 / 2}
    want = {name: value / scales[name.split(".")[-1]] for name, value in want.items()}
    assert_same_updates(updates_in(path), want)
    assert {adapter.alpha for adapter in read_adapter_file(path).adapters} == {None}


def test_lycoris(tmp_path):
    path, want = lycoris_file(tmp_path)
    file = read_adapter_file(path)
    assert [(a.rank, a.alpha) for a in file.adapters] == [(4, 1.5), (2, 6.0), (4, 1.5)]
    assert (file.families, file.unknown) == (("LoRA",), ())
    assert_same_updates(updates_in(path), want)


def our_file(folder: Path, source: Path) -> Path:
    """The same LoRA with factors of our own, written by us."""
    adapters = read_adapter_file(source).adapters
    moved = [adapter.moved(adapter.update(ANY), 0, ANY, ANY).adapter for adapter in adapters]
    write_safetensors(lora_state_dict(moved), folder / "ours.safetensors", {})
    return folder / "ours.safetensors"


def test_lycoris_reads_what_we_write(tmp_path):
    source, want = lycoris_file(tmp_path)
    network, _ = lycoris.create_lycoris_from_weights(1, str(our_file(tmp_path, source)), Net())
    assert_same_updates(lycoris_updates(network), want)


def test_peft_reads_what_we_write(tmp_path):
    """Under PEFT's own names; alpha equals the rank, so that its absence changes nothing."""
    source, _ = peft_file(tmp_path, LoraConfig(r=4, target_modules=list(MODULES)))
    ours = our_file(tmp_path, source)
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
        f"base_model.model.{name}": difference(merged.get_submodule(name), base.get_submodule(name))
        for name in MODULES
    }
    assert_same_updates(got, updates_in(source))


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
