"""A linear layer and a 1x1 convolution are one weight in two layouts: every family, both ways.

SD1's proj_in is the one, SD2's the other.
"""

import numpy as np
import pytest
import torch
from peft import LoraConfig

from prolora.adapters import (
    FullDifference,
    VectorPatch,
    lora_state_dict,
    parse_adapter_file,
    read_adapter_file,
)
from prolora.adapters.dora import DoraAdapter
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .dense_families import WRITERS, adapters_of, written_by_lycoris
from .dense_reference import dense_pair, dense_project
from .libraries import by_peft
from .small_models import delta, drifted, matrix, model_of, move, random_weight
from .strategies import relative_error

SETTINGS = {"mode": "full", "subspace_energy": 0.8, "threshold": 0.0}


def other_layout(weight: torch.Tensor) -> torch.Tensor:
    return weight.flatten(1) if weight.ndim > 2 else weight[..., None, None]


def cases(written):
    """Every adapter of a layer that has the other layout, with its weights and its update."""
    for adapter, weight, update in adapters_of(written):
        if weight[0].numel() == weight.shape[1]:
            yield adapter, weight, other_layout(drifted(weight)), update


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_every_family(tmp_path, writer):
    for adapter, source, target, _ in cases(written_by_lycoris(tmp_path, **writer)):
        update = adapter.update(source).delta.numpy()
        pair = dense_pair(matrix(source), matrix(target), 0.8)
        want = dense_project(update, *pair, "full")
        assert relative_error(update, want) > 0.1
        moved, row = move(adapter, source, target, rank=min(update.shape), **SETTINGS)
        assert (row.status, row.target_shape) == ("moved", tuple(target.shape))
        direction = moved.direction if isinstance(moved, DoraAdapter) else moved
        assert np.linalg.norm(delta(direction) - want) < 1e-5 * np.linalg.norm(update)
        assert_laid_out(moved, target)


def assert_laid_out(moved, target):
    """In the target's layout: what every reader adds, and divides the norms by, fits."""
    tensors = moved.tensors()
    assert {tensors[role].ndim for role in ("up", "down")} == {target.ndim}
    if "dora_scale" in tensors:
        norms = torch.linalg.vector_norm(target, dim=tuple(range(1, target.ndim)), keepdim=True)
        assert tensors["dora_scale"].shape == norms.shape


@pytest.mark.parametrize("style", ["kohya", "peft"])
def test_a_peft_dora(tmp_path, style):
    config = LoraConfig(r=4, target_modules=["linear", "conv1"], use_dora=True)
    written = by_peft(tmp_path, config)
    for adapter, source, target, _ in cases_of_peft(written):
        moved, _ = move(adapter, source, target, **SETTINGS)
        assert_laid_out(moved, target)
        norms = [torch.linalg.vector_norm(w.flatten(1), dim=1) for w in (source, target)]
        want = adapter.magnitude.flatten() * norms[1] / norms[0]
        assert relative_error(adapter.magnitude.flatten().numpy(), want.numpy()) > 0.05
        assert relative_error(moved.magnitude.flatten().numpy(), want.numpy()) < 1e-5
        magnitude = next(
            tensor
            for key, tensor in lora_state_dict([moved], style=style).items()
            if key.endswith((".dora_scale", ".lora_magnitude_vector"))
        )
        if style == "peft":  # out for a linear layer, 1 x out x 1 x 1 for a convolution
            assert magnitude.ndim == (4 if target.ndim == 4 else 1)


def cases_of_peft(written):
    adapters = {adapter.name: adapter for adapter in read_adapter_file(written.path).adapters}
    for name, weight in written.weights.items():
        yield adapters[name], weight, other_layout(drifted(weight)), written.updates[name]


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_copies_across_change_the_same(tmp_path, writer):
    """In mode copy, or where the weights have one and the same values."""
    for adapter, source, _, _ in cases(written_by_lycoris(tmp_path, **writer)):
        file = read_adapter_file(tmp_path / "lycoris.safetensors")
        models = (
            model_of("A", {adapter.name: source}),
            model_of("B", {adapter.name: other_layout(source)}),
        )
        for mode in ("copy", "full"):
            result = transfer_lora(file, *models, TransferSettings(mode=mode))
            (moved,) = (a for a in result.adapters if a.name == adapter.name)
            made = moved.update(other_layout(source)).delta.numpy()
            direction = adapter.update(source).delta.numpy()
            assert np.linalg.norm(direction) > 0.1
            lossy = moved.family == "LoRA" != adapter.family and not adapter.rank
            assert relative_error(made, direction) < (0.11 if lossy else 1e-5)


@pytest.mark.parametrize("mode", ["full", "copy"])
@pytest.mark.parametrize("shape", [(12, 8), (12, 8, 1, 1)])
def test_a_full_difference(mode, shape):
    source, diff = random_weight(shape, 1), random_weight(shape, 2)
    target = other_layout(drifted(source))
    moved, _ = move(FullDifference("m", diff), source, target, **{**SETTINGS, "mode": mode})
    assert moved.tensors()["diff"].shape == target.shape
    if mode == "copy":
        assert torch.equal(moved.diff.flatten(), diff.flatten())


def test_a_set_weight_gets_the_target_s_layout():
    tensors = lora_state_dict([VectorPatch("m", "set_weight", random_weight((12, 8)))])
    file = parse_adapter_file(tensors, "a")
    models = (
        model_of("A", {"m": random_weight((12, 8), 1)}),
        model_of("B", {"m": random_weight((12, 8, 1, 1), 2)}),
    )
    result = transfer_lora(file, *models, TransferSettings())
    assert [patch.tensor.shape for patch in result.vector_patches] == [(12, 8, 1, 1)]
