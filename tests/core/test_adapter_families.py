"""What is not moved yet is recognised by name, in files that the libraries write themselves."""

from pathlib import Path

import lycoris
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, OFTConfig, get_peft_model

from prolora.adapters import read_adapter_file

from .test_adapter_formats import MODULES, Net, assert_same_updates, lycoris_file, updates_in

PEFT_FAMILIES = [
    (LoraConfig(r=4, use_dora=True, target_modules=list(MODULES)), "DoRA"),
    (LoraConfig(r=4, lora_bias=True, target_modules=["linear"]), "LoRA with a bias"),
    (LoHaConfig(r=4, target_modules=list(MODULES)), "LoHa"),
    (LoKrConfig(r=4, target_modules=list(MODULES)), "LoKr"),
    (OFTConfig(r=0, oft_block_size=4, target_modules=["linear"]), "OFT"),
]
LYCORIS_FAMILIES = [
    ({"dora_wd": True}, "DoRA"),
    ({"algo": "loha"}, "LoHa"),
    ({"algo": "loha", "use_tucker": True}, "LoHa"),
    ({"algo": "lokr"}, "LoKr"),
    ({"algo": "lokr", "decompose_both": True, "linear_dim": 1}, "LoKr"),
    ({"algo": "glora"}, "GLoRA"),
    ({"algo": "glora", "use_tucker": True}, "GLoRA"),
    ({"algo": "diag-oft", "rescaled": True}, "OFT"),
    ({"algo": "full"}, "full difference"),
    ({"algo": "ia3"}, "IA3"),
    ({"algo": "tlora"}, "T-LoRA"),
]


@pytest.mark.filterwarnings("ignore::peft.utils.save_and_load.PeftWarning")
@pytest.mark.parametrize(("config", "family"), PEFT_FAMILIES)
def test_what_peft_writes_and_we_do_not_move(tmp_path, config, family):
    model = get_peft_model(Net(), config)
    model.save_pretrained(tmp_path)
    assert_left_out(tmp_path / "adapter_model.safetensors", family, len(config.target_modules))


@pytest.mark.parametrize(("choices", "family"), LYCORIS_FAMILIES)
def test_what_lycoris_writes_and_we_do_not_move(tmp_path, choices, family):
    network = lycoris.create_lycoris(Net(), **{"linear_dim": 4, **choices})
    network.apply_to()
    network.save_weights(str(tmp_path / "file.safetensors"), torch.float32, {})
    assert_left_out(tmp_path / "file.safetensors", family, len(MODULES))


def assert_left_out(path: Path, family: str, count: int) -> None:
    file = read_adapter_file(path)
    assert file.adapters == ()
    assert file.families == (family,)
    assert len(file.unsupported) == count


def test_a_tucker_core_and_norms_beside_plain_modules(tmp_path):
    """One file, several families: each module has its own; the plain ones are moved."""
    path, want = lycoris_file(tmp_path, use_tucker=True, train_norm=True)
    file = read_adapter_file(path)
    assert file.unsupported == {
        "lycoris_conv3": "LoCon with a Tucker core",
        "lycoris_norm": "norm difference",
    }
    plain = {name: want[name] for name in ("lycoris_linear", "lycoris_conv1")}
    assert_same_updates(updates_in(path), plain)
    assert file.unknown == ()
