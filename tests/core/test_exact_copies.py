"""As they were is bit by bit: on identical weights and in mode copy, for every family."""

import pytest
import torch
from peft import LoKrConfig

from prolora.adapters import lora_state_dict, parse_adapter_file, read_adapter_file
from prolora.files.safetensors import read_safetensors
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .dense_families import WRITERS, written_by_lycoris
from .libraries import by_peft
from .small_models import drifted, model_of
from .strategies import formed, relative_error

# An OFT is read in more than one way, so it becomes a LoRA.
HELD = {family: writer for family, writer in WRITERS.items() if family != "OFT"}


def moved(written, settings, drift=0.0):
    file = read_adapter_file(written.path)
    source = model_of("A", written.weights)
    other = {name: drifted(weight, drift) for name, weight in written.weights.items()}
    return transfer_lora(file, source, model_of("B", other), settings)


def own_tensors(written):
    """Of the modules that are adapters."""
    tensors, _ = read_safetensors(written.path)
    return {k: t for k, t in tensors.items() if k.startswith(tuple(written.weights))}


@pytest.mark.parametrize("drift", [0.0, 0.5])
@pytest.mark.parametrize("writer", HELD.values(), ids=HELD)
def test_a_copy_is_the_file_s_own_tensors(tmp_path, writer, drift):
    written = written_by_lycoris(tmp_path, **writer)
    settings = TransferSettings(mode="copy" if drift else "full")
    result = moved(written, settings, drift)
    assert {row.status for row in result.report.rows} == {"copied"}
    made, own = lora_state_dict(result.contents), own_tensors(written)
    assert {k for k in made if not k.endswith(".alpha")} == {
        k for k in own if not k.endswith(".alpha")
    }
    for key, tensor in own.items():
        assert made[key].dtype == tensor.dtype
        assert torch.equal(made[key], tensor), key


@pytest.mark.parametrize("writer", HELD.values(), ids=HELD)
def test_a_copy_is_read_and_written_again(tmp_path, writer):
    """As Save Transferred LoRA does it with a LORA_MODEL."""
    written = written_by_lycoris(tmp_path, **writer)
    tensors = lora_state_dict(moved(written, TransferSettings()).contents)
    again = lora_state_dict(parse_adapter_file(tensors, "a").contents)
    assert again.keys() == tensors.keys()
    assert all(torch.equal(again[key], tensors[key]) for key in tensors)


def test_another_mode_is_no_copy(tmp_path):
    written = written_by_lycoris(tmp_path, **WRITERS["LoKr"])
    result = moved(written, TransferSettings(threshold=0), drift=0.5)
    assert {row.status for row in result.report.rows} == {"moved"}
    assert not lora_state_dict(result.contents).keys() & own_tensors(written).keys() - {
        f"{name}.alpha" for name in written.weights
    }


def test_a_chosen_rank_makes_a_lora_of_a_copy(tmp_path):
    written = written_by_lycoris(tmp_path, **WRITERS["LoKr"])
    result = moved(written, TransferSettings(rank=2))
    assert {(row.status, row.rank_out) for row in result.report.rows} == {("copied", 2)}
    assert all("as a LoRA" in row.reason for row in result.report.rows)


def test_an_oft_becomes_a_lora_and_says_so(tmp_path):
    written = written_by_lycoris(tmp_path, **WRITERS["OFT"])
    for settings in (TransferSettings(), TransferSettings(mode="copy")):
        rows = moved(written, settings).report.rows
        assert {row.status for row in rows} == {"copied"}
        assert all("as a LoRA" in row.reason for row in rows)
        assert max(row.energy_dropped for row in rows) <= 0.01


def test_a_scale_that_only_peft_knows_is_not_lost(tmp_path):
    """Of two whole factors: ComfyUI and LyCORIS take no scale then."""
    written = by_peft(tmp_path, LoKrConfig(r=64, alpha=16, target_modules=["linear"]))
    (adapter,) = read_adapter_file(written.path).adapters
    weight = written.weights[adapter.name]
    update = written.updates[adapter.name]
    file = read_adapter_file(written.path)
    models = model_of("A", {adapter.name: weight}), model_of("B", {adapter.name: weight})
    result = transfer_lora(file, *models, TransferSettings())
    again = parse_adapter_file(lora_state_dict(result.contents), "a").adapters[0]
    assert relative_error(formed(again.update(weight)), update) < 0.11
    assert relative_error(2 * formed(again.update(weight)), update) > 0.5
