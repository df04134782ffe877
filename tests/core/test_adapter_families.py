"""What is not moved is recognised by name, in files that LyCORIS writes itself."""

import lycoris
import pytest
import torch

from prolora.adapters import read_adapter_file

from .libraries import MODULES, Net


@pytest.mark.parametrize(("algo", "family"), [("ia3", "IA3"), ("tlora", "T-LoRA")])
def test_what_lycoris_writes_and_we_do_not_move(tmp_path, algo, family):
    network = lycoris.create_lycoris(Net(), linear_dim=4, algo=algo)
    network.apply_to()
    network.save_weights(str(tmp_path / "file.safetensors"), torch.float32, {})
    file = read_adapter_file(tmp_path / "file.safetensors")
    assert file.adapters == ()
    assert list(file.left_out.values()) == [f"{family} is not moved"] * len(MODULES)
