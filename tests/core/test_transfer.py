"""The whole job on models in memory: its report, its progress, its result."""

import copy
import json
from dataclasses import replace

import pytest
import torch

from prolora import __version__
from prolora.adapters import FullDifference, VectorPatch
from prolora.adapters.lokr import LokrAdapter
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights
from prolora.transfer.job import transfer_lora
from prolora.transfer.report_text import summary_of, warning_of
from prolora.transfer.settings import TransferSettings

from .small_models import (
    SHAPES,
    delta,
    drifted,
    file_of,
    model_of,
    move,
    random_lora,
    random_weight,
)
from .small_transfer import DRIFTED, FILE, LOW, WEIGHTS, run
from .strategies import relative_error

BIAS = {"linear.bias": torch.zeros(24)}

FIELDS = {
    *("name", "status", "reason", "family", "source_key", "target_key"),
    *("source_shape", "target_shape"),
    *("k_s", "k_t", "k", "phi_left", "phi_right", "phi_left_chance", "phi_right_chance"),
    *("phi_left_corrected", "phi_right_corrected", "energy_subspace_subspace"),
    *("energy_subspace_null", "energy_null_subspace", "energy_null_null"),
    *("rank_in", "rank_out", "energy_kept", "energy_dropped", "shared_from"),
}
OF_A_RECORDING = {"readouts_off_copied", "readouts_off"}
OF_AN_EXTRACTION = {"drift"}


def mixed_result(mode="full"):
    """A module moved, one copied, one below the threshold, and three without a partner."""
    shape = (24, 16)
    names = ("moved", "copied", "unlike", "wider", "only_in_source", "lora_te_in_neither")
    weights = {name: random_weight(shape, seed) for seed, name in enumerate(names[:5])}
    target = {
        "moved": drifted(weights["moved"], 0.1),
        "copied": weights["copied"].clone(),
        "unlike": random_weight(shape, 99),
        "wider": random_weight((24, 32)),
    }
    file = replace(file_of(*(random_lora(name, shape) for name in names)), unknown=("odd.key",))
    file = replace(file, left_out={"a": "IA3 is not moved"})
    return run(file, weights, target, TransferSettings(mode, rank=2))


def test_a_row_for_every_module():
    rows = {row.name: row for row in mixed_result().report.rows}
    assert {name: (row.status, row.reason) for name, row in rows.items()} == {
        "moved": ("moved", ""),
        "copied": ("copied", "the weights are identical"),
        "unlike": ("skipped", "similarity below the threshold 0.5"),
        "wider": ("skipped", "shapes differ: 24 x 16 in the source, 24 x 32 in the target"),
        "only_in_source": ("skipped", "not in the target B"),
        "lora_te_in_neither": ("skipped", "not in the source A"),
        "a": ("skipped", "IA3 is not moved"),
    }
    assert [adapter.name for adapter in mixed_result().adapters] == ["moved", "copied"]


def test_every_row_in_json_has_every_field():
    report = json.loads(mixed_result().report.to_json(), parse_constant=pytest.fail)
    assert report["unknown_keys"] == ["odd.key"]
    assert report["settings"]["threshold"] == "0.5"
    assert len(report["rows"]) == 7
    for row in report["rows"]:
        assert row.keys() == FIELDS | OF_A_RECORDING | OF_AN_EXTRACTION
    rows = {row["name"]: row for row in report["rows"]}
    moved = rows["moved"]
    assert all(moved[field] is not None for field in FIELDS)
    assert all(moved[field] is None for field in OF_A_RECORDING)
    assert (moved["source_key"], moved["target_key"]) == ("moved.weight", "moved.weight")
    assert moved["source_shape"] == moved["target_shape"] == [24, 16]
    assert (moved["rank_in"], moved["rank_out"]) == (4, 2)
    assert 0 < moved["energy_dropped"] < 1
    assert rows["unlike"]["phi_left"] < 0.5
    assert (rows["unlike"]["rank_in"], rows["unlike"]["rank_out"]) == (4, 0)
    assert rows["copied"]["phi_left"] is rows["wider"]["k_s"] is None
    assert rows["only_in_source"]["target_shape"] == []
    assert rows["only_in_source"]["rank_in"] == 4


def test_the_shares_of_the_quadrants_add_up():
    for row in run().report.rows:
        shares = [v for k, v in row.as_dict().items() if k.startswith("energy_") and "_null" in k]
        shares.append(row.as_dict()["energy_subspace_subspace"])
        assert sum(shares) == pytest.approx(1)
        assert len(shares) == 4


def test_no_nan_in_json_where_chance_alone_is_enough():
    """Flat singular values: the subspace is everything, and the corrected similarity 0 / 0."""
    source, target = torch.eye(16), torch.eye(16).flip(0)
    _, row = move(random_lora("layer", (16, 16)), source, target)
    assert (row.as_dict()["phi_left"], row.as_dict()["phi_left_corrected"]) == (1, None)


def test_summary():
    summary = summary_of(mixed_result().report)
    verdict = "2 of 7 modules transferred: 1 moved, 1 copied, 5 skipped; energy kept: "
    assert summary.startswith(verdict)
    for line in (
        "- style.safetensors, from A (SDXL) to B (SDXL)",
        "mode full, threshold 0.5, energy 0.8, rank 2",
        "1 copied: the weights are identical",
        "chance alone gives 0.",
        "energy kept: median ",
        "truncation to the rank dropped up to ",
        "5 skipped:",
        "wider: shapes differ: 24 x 16 in the source, 24 x 32 in the target",
        "1 keys of the file are of no known kind:",
    ):
        assert line in summary


def test_what_moves_as_it_is_has_a_similarity_to_tell():
    summary = summary_of(mixed_result("auto").report)
    verdict = "2 of 7 modules transferred: 1 moved, 1 copied, 5 skipped; similarity: 0."
    assert summary.startswith(verdict)
    assert "mode alike, threshold 0.5" in summary
    assert "energy kept" not in summary and "energy kept" in summary_of(mixed_result().report)


@pytest.mark.parametrize(
    ("families", "rank"),
    [("ld", "as in the source or whole"), ("d", "whole"), ("k", "what keeps 99 %"), ("", "none")],
)
def test_what_rank_0_means(families, rank):
    adapters = {
        "l": FILE.adapters[0],
        "d": FullDifference("conv 1x1", random_weight(SHAPES["conv 1x1"])),
        "k": LokrAdapter("linear", random_weight((4, 4)), random_weight((6, 4)), 1.0),
    }
    bias = VectorPatch("linear", "diff_b", torch.zeros(24))
    file = replace(file_of(*(adapters[family] for family in families)), vector_patches=(bias,))
    tensors = {f"{kind}.weight": weight for kind, weight in WEIGHTS.items()}
    model = replace(model_of("A", WEIGHTS), weights=StateDictWeights(tensors | BIAS))
    assert transfer_lora(file, model, model, LOW).report.settings["rank"] == rank
    alike = transfer_lora(file, model, model, TransferSettings()).report
    assert alike.settings["rank"] == ("as in the source" if families else "none")


def test_metadata():
    result = mixed_result()
    metadata = result.metadata()
    assert all(isinstance(value, str) for value in metadata.values())
    assert metadata == {
        "prolora_version": __version__,
        "prolora_lora": "style.safetensors",
        "prolora_lora_digest": result.file.digest,
        "prolora_source": "A (SDXL)",
        "prolora_target": "B (SDXL)",
        "prolora_mode": "full",
        "prolora_threshold": "0.5",
        "prolora_energy": "0.8",
        "prolora_rank": "2",
        "prolora_modules_moved": "1",
        "prolora_modules_copied": "1",
        "prolora_modules_skipped": "5",
    }


def test_nothing_passes_the_threshold():
    unlike = {kind: random_weight(shape, 50) for kind, shape in SHAPES.items()}
    result = run(target=unlike, settings=TransferSettings(threshold=0.99))
    assert result.adapters == ()
    warning = warning_of(result.report)
    assert warning.startswith("NOTHING WAS MOVED: no module reached the threshold 0.99")
    assert "Lower the threshold" in warning
    verdict = f"0 of {len(SHAPES)} modules transferred: {len(SHAPES)} skipped"
    assert summary_of(result.report).startswith(f"{warning}\n\n{verdict}\n- ")
    assert warning_of(run().report) == ""


def test_a_summary_taken_for_markdown_keeps_its_lines():
    """A line that is no item of a list would be drawn into the paragraph before it."""
    for result in (mixed_result(), run(settings=TransferSettings(threshold=1.0))):
        _, *lines = summary_of(result.report).split("\n\n")[-1].splitlines()
        assert len(lines) > 3
        assert all(line.lstrip().startswith("- ") for line in lines)


def test_progress():
    calls = []
    run(settings=TransferSettings(workers=1), progress=lambda *call: calls.append(call))
    assert calls == [(0, 3, "linear"), (1, 3, "conv 1x1"), (2, 3, "conv 3x3"), (3, 3, "")]


def test_an_exception_from_progress_stops_the_job():
    class Cancelled(Exception):
        pass

    calls = []

    def cancel(done, total, name):
        calls.append(name)
        if done == 1:
            raise Cancelled

    with pytest.raises(Cancelled):
        run(settings=TransferSettings(workers=1), progress=cancel)
    assert calls == ["linear", "conv 1x1"]


def test_inputs_are_not_modified():
    file, source, target = (copy.deepcopy(value) for value in (FILE, WEIGHTS, DRIFTED))
    run(file, source, target)
    for before, after in ((WEIGHTS, source), (DRIFTED, target)):
        assert all(torch.equal(before[kind], after[kind]) for kind in before)
    for before, after in zip(FILE.adapters, file.adapters, strict=True):
        assert torch.equal(before.up, after.up)
        assert torch.equal(before.down, after.down)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize("swapped", [False, True])
def test_a_slice_moves_like_a_weight_of_its_own(dim, swapped):
    """Q, k and v of one fused weight, stored as they are or with their halves swapped."""
    models = []
    for name, weights in (("A", random_weight((3, 24, 16))), ("B", random_weight((3, 24, 16), 9))):
        parts = [torch.cat(part.chunk(2)[::-1]) if swapped else part for part in weights]
        size = parts[0].shape[dim]
        refs = {
            q: WeightRef("qkv", Slice(dim, i * size, size), swapped) for i, q in enumerate("qkv")
        }
        models.append(Model(name, "SD3", StateDictWeights({"qkv": torch.cat(parts, dim)}), refs))
        models.append(model_of(name, dict(zip("qkv", weights, strict=True))))
    fused_source, source, fused_target, target = models
    file = file_of(*(random_lora(name, (24, 16), seed=i) for i, name in enumerate("qkv")))
    want = transfer_lora(file, source, target, LOW).adapters
    result = transfer_lora(file, fused_source, fused_target, LOW)
    assert len(result.adapters) == 3
    for got, separate, before in zip(result.adapters, want, file.adapters, strict=True):
        assert relative_error(delta(before), delta(separate)) > 0.1
        assert relative_error(delta(got), delta(separate)) < 1e-6
    key = {0: "qkv[24:48]", 1: "qkv[:, 16:32]"}[dim]
    assert result.report.rows[1].source_key == key
    assert result.report.rows[1].source_shape == (24, 16)


def test_a_1x1_convolution_is_a_linear_layer():
    """SD1.x projects by the one, SD2.x by the other; a 3x3 kernel is another thing."""
    linear = {**DRIFTED, "conv 1x1": DRIFTED["conv 1x1"].flatten(1)}
    assert run(target=linear).report.transferred == len(WEIGHTS)
    flat = {**DRIFTED, "conv 3x3": DRIFTED["conv 3x3"].flatten(1)}
    skipped = [row.name for row in run(target=flat).report.rows if row.status == "skipped"]
    assert skipped == ["conv 3x3"]


def test_a_module_that_loses_most_of_its_energy_is_named():
    source, target = random_weight((48, 48)), random_weight((48, 48), 9)
    models = model_of("A", {"m": source}), model_of("B", {"m": target})
    file = file_of(random_lora("m", (48, 48)))
    for mode, lost in (("subspace", True), ("copy", False)):
        result = transfer_lora(file, *models, TransferSettings(threshold=0, mode=mode))
        said = "1 lose more than 50% of their energy: m" in summary_of(result.report)
        assert said == lost
