"""What is not moved is recognised by name, in files that LyCORIS writes itself."""

import lycoris
import pytest
import torch

from prolora.adapters import AdapterFile, parse_adapter_file, read_adapter_file
from prolora.errors import ProLoRAError
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .libraries import MODULES, Net
from .small_models import model_of, random_weight


@pytest.mark.parametrize(("algo", "family"), [("ia3", "IA3"), ("tlora", "T-LoRA")])
def test_what_lycoris_writes_and_we_do_not_move(tmp_path, algo, family):
    network = lycoris.create_lycoris(Net(), linear_dim=4, algo=algo)
    network.apply_to()
    network.save_weights(str(tmp_path / "file.safetensors"), torch.float32, {})
    file = read_adapter_file(tmp_path / "file.safetensors")
    assert file.adapters == ()
    assert list(file.left_out.values()) == [f"{family} is not moved"] * len(MODULES)


LORA = {"lora_up.weight": torch.ones(24, 4), "lora_down.weight": torch.ones(4, 16)}
OFT = {"oft_R.weight": torch.ones(4, 6)}
LOKR = {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(12, 8)}
NAN = torch.tensor(float("nan"))


def read(*modules: dict[str, torch.Tensor]) -> AdapterFile:
    """Modules m0, m1, ... of one file."""
    tensors = {f"m{i}.{key}": t for i, parts in enumerate(modules) for key, t in parts.items()}
    return parse_adapter_file(tensors, "style.safetensors")


@pytest.mark.parametrize(
    ("parts", "family", "found"),
    [
        ({**OFT, "oft_R.cans_exp": torch.ones(0)}, "OFT", "oft_R.cans_exp"),
        ({**LORA, "lora_new.weight": torch.ones(4)}, "LoRA", "lora_new.weight"),
        (
            {**LORA, "dora_a": torch.ones(4), "dora_b": torch.ones(4)},
            "LoRA",
            "dora_a and dora_b",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_newer_form_of_a_family_is_left_out(parts, family, found):
    """Nothing says what the unknown tensor does to the known ones; other modules move."""
    file = read(parts, LORA)
    assert [adapter.name for adapter in file.adapters] == ["m1"]
    reason = f"{family} with {found} is of a form that ProLoRA does not know, and is not moved"
    assert (file.left_out, file.unknown) == ({"m0": reason}, ())


def test_an_unknown_key_of_no_adapter_is_listed():
    file = read({**LORA, "bias": torch.ones(24)}, {"lora_embedding_A": torch.ones(4, 8)})
    assert (file.left_out, len(file.adapters)) == ({}, 1)
    assert file.unknown == ("m0.bias", "m1.lora_embedding_A")


def test_two_families_in_one_module():
    assert read({**LOKR, **OFT}).left_out == {"m0": "DoKr-OFT is not moved"}
    with pytest.raises(ProLoRAError, match=r"module m0 has tensors of LoKr and LoRA\..*again"):
        read({**LOKR, **LORA})


# Numbers that change nothing, and whole tensors of what is not moved.
DO_NOT_COUNT = {
    "the alpha of an OFT by triangles": {**OFT, "alpha": NAN},
    "the alpha of PEFT's BOFT": {
        **{"boft_R": torch.ones(1, 4, 4, 4), "boft_s": torch.ones(24, 1)},
        "alpha": NAN,
    },
    "the alpha of a difference": {"diff": torch.ones(24, 16), "alpha": NAN},
    "a block's side": {**OFT, "oft_block_size_metadata": NAN},
    "the eps of no COFT": {**OFT, "oft_coft_metadata": torch.tensor(0), "coft_eps_metadata": NAN},
    "the padding of an OFT": {**OFT, "reshape_weight": NAN},
    "the rank beside a factored w2": {
        **{"lokr_w1": torch.ones(2, 2), "lokr_w2_a": torch.ones(12, 2)},
        **{"lokr_w2_b": torch.ones(2, 8), "lokr_dim": NAN},
    },
    "T-LoRA": {"q_layer.weight": NAN * torch.ones(4, 4), "lambda_layer": NAN},
    "a modulation": {**LORA, "diff_m": NAN * torch.ones(1, 6, 8)},
}


@pytest.mark.parametrize("kind", DO_NOT_COUNT)
def test_what_does_not_count_refuses_nothing(kind):
    parts = DO_NOT_COUNT[kind]
    assert len(read(parts).module_names) == 1
    counts = {key: NAN * tensor for key, tensor in parts.items() if tensor.isfinite().all()}
    if kind not in ("T-LoRA",):
        with pytest.raises(ProLoRAError, match="NaN or infinity"):
            read({**parts, **counts})


def test_a_file_of_which_nothing_is_known_is_refused_with_advice():
    models = (model_of(name, {"m0": random_weight((24, 16))}) for name in "AB")
    file = read({**OFT, "oft_R.cans_exp": torch.ones(1)})
    words = r"the first: m0: OFT with oft_R\.cans_exp is of a form .*\. Merge it into its model"
    with pytest.raises(ProLoRAError, match=words):
        transfer_lora(file, *models, TransferSettings(threshold=0.0))
