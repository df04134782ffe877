"""Mode calibrated: what comes of a LoRA whose read-outs were recorded."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from prolora.adapters import FullDifference, LoraAdapter
from prolora.adapters.dora import DoraAdapter
from prolora.errors import ProLoRAError
from prolora.recording.calibrated import PENALTY, transfer_recorded
from prolora.recording.record import RecordingSettings
from prolora.transfer.job import transfer_lora
from prolora.transfer.report_text import summary_of
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from .dense_reference import dense_fit
from .running_models import NAMES, drifted, lora_file, model_of, network_of, recorded, source
from .small_models import delta, file_of, random_weight
from .strategies import relative_error

FILE = lora_file()
RECORDING = recorded(FILE)
EVERY = TransferSettings(threshold=0)
TARGET = drifted()


def calibrated(file=FILE, recording=RECORDING, target=TARGET, settings=EVERY, origin=None, **more):
    origin = model_of(source()) if origin is None else origin
    names = more.pop("names", tuple(NAMES))
    return transfer_recorded(
        resolve(file, origin),
        model_of(target, "B", names),
        recording,
        network_of(target),
        settings,
        **more,
    )


def deltas(adapters) -> dict[str, np.ndarray]:
    return {adapter.name: delta(adapter) for adapter in adapters}


def test_each_factor_is_the_fit_to_the_targets_inputs():
    found = {adapter.name: adapter for adapter in calibrated().adapters}
    moved = False
    for adapter in FILE.adapters:
        layer = network_of(TARGET).layers[NAMES[adapter.name][0]]
        readout = RECORDING.readouts[adapter.name]
        rows = torch.stack(
            [
                inputs(layer, int(example))[int(position)]
                for example, position in zip(readout.examples, readout.positions, strict=True)
            ]
        )
        update = adapter.update(torch.zeros(0))
        down = dense_fit(rows, readout.values, update.down, PENALTY)
        wanted = update.up.double().numpy() @ down
        got = delta(found[adapter.name])
        assert relative_error(got, wanted) < 1e-4
        moved |= relative_error(delta(adapter), wanted) > 0.05
    assert moved  # what was not calibrated is far


def inputs(layer, example: int) -> torch.Tensor:
    """What a layer of the target is given for a latent, p x n."""
    found = []
    handle = layer.register_forward_hook(lambda _, given, output: found.append(given[0]))
    one = torch.tensor([example])
    network_of(TARGET).denoise(
        RECORDING.latents[one].float(), RECORDING.sigmas[one], RECORDING.prompts_at(one)
    )
    handle.remove()
    if isinstance(layer, torch.nn.Conv2d):
        columns = torch.nn.functional.unfold(
            found[0], layer.kernel_size, 1, layer.padding, layer.stride
        )
        return columns[0].T
    return found[0].reshape(-1, found[0].shape[-1])


def test_the_same_weights_on_both_sides_give_the_lora_back():
    settings = replace(EVERY, copy_identical=False)
    same = calibrated(target=source(), settings=settings)
    assert same.report.count("moved") == len(FILE.adapters)
    other = deltas(calibrated(settings=settings).adapters)
    for adapter in FILE.adapters:
        assert relative_error(deltas(same.adapters)[adapter.name], delta(adapter)) < 1e-4
        if adapter.name in ("qkv", "proj", "conv_out"):  # the others see what the source's saw
            assert relative_error(other[adapter.name], delta(adapter)) > 1e-2
    for row in same.report.rows:
        assert row.measures.readouts_off is not None
        assert max(row.measures.readouts_off) < 1e-4


def test_identical_weights_are_copied():
    report = calibrated(target=source()).report
    assert report.count("copied") == len(FILE.adapters)


def test_it_reads_more_of_what_the_source_read():
    report = calibrated().report
    off = [row.measures.readouts_off for row in report.rows if row.measures.readouts_off]
    assert np.median([after for _, after in off]) < 0.8 * np.median([before for before, _ in off])
    assert "calibrated by 8 read-outs: off by" in summary_of(report)  # q, k, v have one each
    row = json.loads(report.to_json())["rows"][0]
    assert row["readouts_off_copied"] == off[0][0]
    assert row["readouts_off"] == off[0][1]


def test_groups_of_modules_give_what_all_at_once_give():
    runs = []
    settings = replace(EVERY, subspace_energy=0.7)

    def count(done: int, total: int, of: str) -> None:
        runs.append(of) if of == "the target" and not done else None

    at_once = calibrated(settings=settings, progress=count)
    assert len(runs) == 1
    few = calibrated(settings=settings, progress=count, room=20_000)
    assert len(runs) == 3
    for a, b in zip(at_once.adapters, few.adapters, strict=True):
        assert torch.equal(a.down, b.down)


def test_the_threshold_keeps_its_say():
    found = calibrated(settings=TransferSettings(threshold=0.999))
    assert not found.adapters
    assert found.report.count("skipped") == len(FILE.adapters)


@pytest.mark.parametrize(
    ("theirs", "ours"), [(("qkv",), ("q", "k", "v")), (("q", "k", "v"), ("qkv",))]
)
def test_fused_weights(theirs, ours):
    """A LoRA of q, k, v on a target that names the whole, and the other way round."""
    file = lora_file(*theirs)
    found = recorded(file)
    settings = replace(EVERY, copy_identical=False)
    origin = model_of(source(), names=theirs)
    same = calibrated(file, found, source(), settings, origin, names=ours)
    assert relative_error(whole(same.adapters), whole(file.adapters)) < 1e-4
    other = calibrated(file, found, TARGET, settings, origin, names=ours)
    assert relative_error(whole(other.adapters), whole(file.adapters)) > 1e-2


def whole(adapters) -> np.ndarray:
    """The update of all of qkv."""
    found = np.zeros((48, 16))
    for adapter in adapters:
        rows = NAMES[adapter.name][1]
        start = rows.start if rows is not None else 0
        found[start : start + len(delta(adapter))] += delta(adapter)
    return found


# --- families without a low rank ----------------------------------------------------------------


def dense_file():
    return file_of(FullDifference("proj", 0.1 * random_weight((16, 16))))


@pytest.mark.parametrize("rank", [0, 4])
def test_a_full_difference_is_heard_through_its_factors(rank):
    file = dense_file()
    found = recorded_dense(file)
    assert found.readouts["proj"].down is not None
    settings = replace(EVERY, copy_identical=False, rank=rank)
    (same,) = calibrated(file, found, source(), settings).adapters
    wanted = file.adapters[0].update(random_weight((16, 16))).delta.numpy()
    if rank:
        U, S, Vh = np.linalg.svd(wanted)
        wanted = (U[:, :rank] * S[:rank]) @ Vh[:rank]
        assert relative_error(delta(same), wanted) < 1e-4
    else:
        assert isinstance(same, FullDifference)
        assert relative_error(same.update(random_weight((16, 16))).delta.numpy(), wanted) < 1e-4
    (other,) = calibrated(file, found, TARGET, settings).adapters
    assert relative_error(other.update(random_weight((16, 16))).delta.numpy(), wanted) > 1e-2


def recorded_dense(file):
    return recorded(file, RecordingSettings(levels=3, positions=90), styled=False)


# --- without the source -------------------------------------------------------------------------


def test_the_recording_stands_in_for_the_checkpoint():
    found = calibrated(origin=RECORDING.source)
    with_weights = calibrated()
    for a, b in zip(found.adapters, with_weights.adapters, strict=True):
        assert a.name == b.name
        torch.testing.assert_close(a.down, b.down)
    assert all(row.measures.similarity is None for row in found.report.rows)


def test_what_is_made_of_the_sources_weights_needs_the_checkpoint():
    (lora,) = lora_file("proj").adapters
    assert isinstance(lora, LoraAdapter)
    dora = file_of(DoraAdapter(lora, torch.ones(16, 1), 0))
    found = replace(RECORDING, lora=dora.digest)
    with pytest.raises(ProLoRAError, match=r"The DoRA of the module proj is made from the source"):
        calibrated(dora, found, origin=RECORDING.source)


def test_weights_of_an_outline_are_asked_for_in_vain():
    with pytest.raises(ProLoRAError, match="Mode full needs the weights of the source A"):
        transfer_lora(FILE, RECORDING.source, model_of(TARGET, "B"), TransferSettings(mode="full"))
    with pytest.raises(ProLoRAError, match="Choose the checkpoint that the LoRA was trained on"):
        RECORDING.source.weights.read("conv_in.weight")


# --- modes --------------------------------------------------------------------------------------


def test_mode_auto_is_what_there_is_evidence_for():
    assert calibrated().report.settings["mode"] == "calibrated"
    by_weights = transfer_lora(FILE, model_of(source()), model_of(TARGET, "B"), EVERY)
    assert by_weights.report.settings["mode"] == "alike"


def test_another_mode_leaves_the_recording_aside():
    found = calibrated(settings=replace(EVERY, mode="prolora"))
    wanted = transfer_lora(
        FILE, model_of(source()), model_of(TARGET, "B"), replace(EVERY, mode="prolora")
    )
    assert torch.equal(found.adapters[0].down, wanted.adapters[0].down)
    assert any("recording was not used" in note for note in found.report.notes)


def test_calibrated_without_a_recording():
    with pytest.raises(ProLoRAError, match="needs a recording of the source"):
        transfer_lora(
            FILE, model_of(source()), model_of(TARGET), TransferSettings(mode="calibrated")
        )


def test_a_recording_of_another_lora():
    with pytest.raises(ProLoRAError, match="of another LoRA"):
        calibrated(lora_file("proj"))


def test_modules_that_were_not_heard_move_by_their_weights():
    readouts = {name: r for name, r in RECORDING.readouts.items() if name != "proj"}
    silent = replace(RECORDING, readouts=readouts, left_out={"proj": "its layer did not run"})
    found = calibrated(recording=silent)
    row = next(row for row in found.report.rows if row.name == "proj")
    assert row.reason == "by its weights: its layer did not run"
    assert relative_error(deltas(found.adapters)["proj"], deltas(FILE.adapters)["proj"]) < 1e-5


def test_a_layer_that_runs_on_other_positions_moves_by_its_weights():
    network = network_of(TARGET)

    def coarse(latents, sigmas, prompts):
        return network.denoise(latents[..., ::2, ::2], sigmas, prompts)

    found = transfer_recorded(
        resolve(FILE, model_of(source())),
        model_of(TARGET, "B"),
        RECORDING,
        replace(network, denoise=coarse),
        EVERY,
    )
    reasons = {row.name: row.reason for row in found.report.rows}
    assert reasons["proj"] == "by its weights: its layer has 4 positions here and 16 in the source"
    assert not reasons["text"]  # the prompts are the same


def test_a_layer_that_does_not_run_moves_by_its_weights():
    network = network_of(TARGET)
    network = replace(
        network, layers={**network.layers, "blocks.0.proj.weight": torch.nn.Linear(16, 16)}
    )
    found = transfer_recorded(
        resolve(FILE, model_of(source())), model_of(TARGET, "B"), RECORDING, network, EVERY
    )
    reasons = {row.name: row.reason for row in found.report.rows}
    assert reasons.pop("proj") == "by its weights: its layer did not run"
    assert set(reasons.values()) == {""}


def test_a_target_that_adds_noise_in_another_way():
    eps = replace(
        network_of(TARGET),
        noised=lambda clean, noise, sigmas: clean + sigmas[:, None, None, None] * noise,
    )
    with pytest.raises(ProLoRAError, match="adds noise to latents in another way"):
        transfer_recorded(
            resolve(FILE, model_of(source())), model_of(TARGET, "B"), RECORDING, eps, EVERY
        )


def test_figures_of_read_outs_are_of_the_whole_rank():
    found = calibrated(settings=replace(EVERY, rank=1))
    for row in found.report.rows:
        assert (row.measures.readouts_off is None) == (row.energy_dropped > 0)
