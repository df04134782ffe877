"""As it was is bit by bit, for every family: on identical weights, and in modes copy and alike."""

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


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_alike_without_a_threshold_is_a_copy(tmp_path, writer, rank):
    """But for a DoRA's magnitude, which is told below."""
    written = written_by_lycoris(tmp_path, **writer)
    alike, copied, full = (
        moved(written, TransferSettings(mode, threshold=0, rank=rank), drift=0.5)
        for mode in ("alike", "copy", "full")
    )
    made, copy, other = (lora_state_dict(one.contents) for one in (alike, copied, full))
    assert made.keys() == copy.keys()
    plain = [key for key in made if not key.endswith((".alpha", ".dora_scale"))]
    assert not any(key in other and torch.equal(other[key], copy[key]) for key in plain)
    assert all(torch.equal(made[key], copy[key]) for key in plain)
    for row, by_copy in zip(alike.report.rows, copied.report.rows, strict=True):
        assert row.status == "moved"
        assert row.measures.similarity is not None and row.measures.quadrants is not None
        assert row.energy_kept == pytest.approx(1 - by_copy.energy_dropped, rel=1e-4)
        assert ("as a LoRA" in row.reason) == ("as a LoRA" in by_copy.reason)


@pytest.mark.parametrize("name", [name for name in WRITERS if name.startswith("DoRA")])
def test_the_magnitude_of_a_dora_goes_with_the_norms_in_alike(tmp_path, name):
    written = written_by_lycoris(tmp_path, **WRITERS[name])
    alike, copied, full = (
        lora_state_dict(moved(written, TransferSettings(mode, threshold=0), drift=0.5).contents)
        for mode in ("alike", "copy", "full")
    )
    for module in written.weights:
        ours, as_it_was, by_full = (
            one[f"{module}.dora_scale"].flatten() for one in (alike, copied, full)
        )
        assert relative_error(as_it_was.double().numpy(), by_full.double().numpy()) > 0.05
        torch.testing.assert_close(ours, by_full, rtol=1e-5, atol=0)


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_nothing_is_alike_enough_for_a_threshold_of_1(tmp_path, writer):
    written = written_by_lycoris(tmp_path, **writer)
    result = moved(written, TransferSettings("alike", threshold=1), drift=0.5)
    assert {row.status for row in result.report.rows} == {"skipped"}
    assert not result.adapters


def test_another_mode_is_no_copy(tmp_path):
    written = written_by_lycoris(tmp_path, **WRITERS["LoKr"])
    result = moved(written, TransferSettings("full", threshold=0), drift=0.5)
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
