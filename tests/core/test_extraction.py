"""A difference as a LoRA, against numpy's SVD in float64 and the tuned model itself."""

import weakref
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prolora.adapters import lora_state_dict, parse_adapter_file
from prolora.extraction.extract import extract_difference
from prolora.extraction.settings import ExtractionSettings
from prolora.models.key_map import load_checkpoint
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.naming.output_names import rename

from .small_extraction import WHOLE, extracted, full_model, tuned_model
from .small_models import SHAPES, delta, drifted, matrix, model_of, random_weight
from .stacks import block, noisy, stack
from .stacks import model as model_of_blocks
from .strategies import relative_error, spectrum

ALL_SHAPES = {**SHAPES, "conv 3d": (16, 4, 1, 2, 2), "one row": (1, 12), "one column": (12, 1)}


def added(base: Model, contents) -> dict[str, torch.Tensor]:
    """The base's weights with what a file's parts add to them, by key."""
    weights = {key: base.weights.read(key) for key in base.weights}
    for part in contents:
        ref = base.resolve(part.name)
        key = ref.key
        for role, tensor in part.tensors().items():
            if role == "diff_b":
                key = f"{key.removesuffix('weight')}bias"
            if role in ("diff", "diff_b"):
                weights[key] = weights[key] + tensor
        if "up" in part.tensors():
            rows = slice(None) if ref.part is None else slice(ref.part.start, None)
            update = torch.tensor(delta(part)).reshape(-1, *weights[key].shape[1:])
            grown = weights[key].double().clone()
            grown[rows][: len(update)] += update
            weights[key] = grown
    return weights


# Exact


@pytest.mark.parametrize("shape", ALL_SHAPES.values(), ids=ALL_SHAPES)
def test_at_full_rank_base_and_lora_are_the_tuned_weight(shape):
    base = random_weight(shape)
    tuned = drifted(base, 0.01)
    wanted = matrix(tuned) - matrix(base)
    assert np.linalg.norm(wanted) > 1e-3 * np.linalg.norm(matrix(base))
    result = extracted(base, tuned)
    (adapter,) = result.adapters
    assert relative_error(delta(adapter), wanted) < 1e-5
    assert adapter.down.shape[1:] == shape[1:]
    assert adapter.rank == min(shape[0], wanted.shape[1])
    assert result.energy_kept == pytest.approx(1)


@pytest.mark.parametrize("naming", ["auto", "kohya", "comfyui"])
def test_a_whole_model(naming):
    """Biases, norms and lone parameters too; what is no weight of a LoRA's stays out."""
    base, tuned = full_model("A"), tuned_model()
    result = extract_difference(base, tuned, WHOLE)
    named = rename(result.contents, base.key_map, base.architecture, naming)
    got = added(base, named.adapters)
    for key in base.weights:
        ours, wanted = (matrix_of(m.weights.read(key)) for m in (base, tuned))
        if "positions" in key:
            continue
        assert relative_error(ours, wanted) > 0.1
        if key.startswith("vae") or not wanted.shape:
            assert np.array_equal(matrix_of(got[key]), ours)
        else:
            assert relative_error(matrix_of(got[key]), wanted) < 1e-5, key
    said = {row.name: (row.status, row.reason) for row in result.report.rows}
    assert said["diffusion_model.positions.diff"] == ("skipped", "it holds whole numbers")
    assert not [name for name in said if "vae" in name]
    assert said["diffusion_model.scale.diff"][1].startswith("a single number")
    assert said["lora_unet_norm.diff"][0] == said["lora_unet_linear.diff_b"][0] == "copied"


def matrix_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy()


@pytest.mark.parametrize(("dtype", "error"), [("fp16", 1e-3), ("bf16", 8e-3)])
def test_a_file_of_fewer_digits_is_as_exact_as_they_are(dtype, error):
    base, tuned = full_model("A"), tuned_model()
    result = extract_difference(base, tuned, WHOLE)
    kinds = {"fp16": torch.float16, "bf16": torch.bfloat16}
    tensors = lora_state_dict(result.contents, kinds[dtype])
    assert {t.dtype for k, t in tensors.items() if not k.endswith("alpha")} == {kinds[dtype]}
    read = parse_adapter_file(tensors, "difference.safetensors")
    assert (read.left_out, read.unknown) == ({}, ())
    got = added(base, read.contents)
    for key in (ref.key for ref in base.key_map.values() if base.shape(ref) not in ((), (9,))):
        ours, wanted = (matrix_of(m.weights.read(key)) for m in (base, tuned))
        change = np.linalg.norm(wanted - ours)
        assert change > 0.1 * np.linalg.norm(ours)
        assert np.linalg.norm(matrix_of(got[key]) - wanted) < error * change, key


# Cut


@st.composite
def differences(draw: st.DrawFn) -> tuple[np.ndarray, int, float]:
    """m x n with a spectrum that falls off, a rank, an energy."""
    m, n = draw(st.integers(2, 40)), draw(st.integers(2, 40))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = np.arange(1, min(m, n) + 1) ** -draw(st.floats(0.1, 2.0))
    return (
        spectrum(random, m, n, values),
        draw(st.integers(1, min(m, n) + 3)),
        draw(st.floats(0.3, 0.99)),
    )


@given(differences())
def test_the_cut_is_the_best_of_its_rank(case):
    """Eckart and Young: no matrix of that rank is nearer than the cut SVD."""
    difference, rank, _ = case
    base = torch.zeros(difference.shape, dtype=torch.float64)
    base[0, 0] = 1.0
    settings = ExtractionSettings(rank=rank, energy=1.0, least=0.0, dtype=torch.float64)
    result = extracted(base, base + torch.tensor(difference), settings)
    (adapter,), (row,) = result.adapters, result.report.rows
    U, s, Vh = np.linalg.svd(difference, full_matrices=False)
    k = min(rank, len(s))
    assert adapter.rank == row.rank_out == k
    best = (U[:, :k] * s[:k]) @ Vh[:k]
    missing = np.linalg.norm(difference - best)
    off = np.linalg.norm(difference - delta(adapter))
    assert off == pytest.approx(missing, rel=1e-6, abs=1e-9 * np.linalg.norm(difference))
    assert row.energy_kept == pytest.approx((s[:k] ** 2).sum() / (s**2).sum(), rel=1e-9)
    # What is kept and what is missing are orthogonal, so their energies add up.
    kept = np.linalg.norm(delta(adapter)) ** 2
    assert kept + off**2 == pytest.approx((s**2).sum(), rel=1e-9)


@given(differences())
def test_an_energy_takes_the_smallest_rank_that_keeps_it(case):
    difference, rank, energy = case
    base = torch.zeros(difference.shape, dtype=torch.float64)
    squared = np.linalg.svd(difference, compute_uv=False) ** 2
    held = np.cumsum(squared) / squared.sum()
    enough = 1 + int((held < energy * (1 - 1e-12)).sum())
    for bound, want in ((0, enough), (rank, min(rank, enough))):
        settings = ExtractionSettings(bound, energy, least=0.0, dtype=torch.float64)
        result = extracted(base, base + torch.tensor(difference), settings)
        assert result.adapters[0].rank == want
        assert result.energy_kept == pytest.approx(held[want - 1])


def test_the_energy_of_all_is_that_of_their_sum():
    bases = {"large": random_weight((24, 16)), "small": random_weight((12, 16), 3)}
    tuned = {"large": drifted(bases["large"], 2.0), "small": drifted(bases["small"], 0.1)}
    result = extract_difference(
        model_of("A", bases), model_of("B", tuned), ExtractionSettings(2, 1.0)
    )
    differences = {name: matrix(tuned[name]) - matrix(bases[name]) for name in bases}
    missing = sum(
        np.linalg.norm(differences[adapter.name] - delta(adapter)) ** 2
        for adapter in result.adapters
    )
    whole = sum(np.linalg.norm(one) ** 2 for one in differences.values())
    assert 0.1 < result.energy_kept < 0.9
    assert result.energy_kept == pytest.approx(1 - missing / whole, abs=1e-6)


def test_a_lora_that_was_merged_is_found_again():
    """Its rank as well: a bound of 64 and 99 % of the energy leave no more than there is."""
    base = random_weight((48, 40))
    update = (random_weight((48, 5), 1) @ random_weight((5, 40), 2)) * 0.01
    (adapter,) = extracted(base, base + update, ExtractionSettings(64, 0.99999)).adapters
    assert adapter.rank == 5
    assert relative_error(delta(adapter), update.double().numpy()) < 1e-4


def test_the_parts_of_a_weight_that_has_no_name_as_a_whole():
    base, tuned = full_model("A"), tuned_model()
    names = {n: ref for n, ref in base.key_map.items() if n != "lora_unet_qkv"}
    base = Model("A", "SD1", base.weights, names)
    result = extract_difference(base, tuned, ExtractionSettings(3, 1.0))
    made = {adapter.name: adapter for adapter in result.adapters}
    wanted = tuned.weights.read("diffusion_model.qkv.weight")
    wanted = (wanted - base.weights.read("diffusion_model.qkv.weight")).double().numpy()
    for i, name in enumerate(("qkv.q", "qkv.k", "qkv.v")):
        part = wanted[24 * i : 24 * i + 24]
        U, s, Vh = np.linalg.svd(part, full_matrices=False)
        assert relative_error((U[:, :3] * s[:3]) @ Vh[:3], part) > 0.1
        assert relative_error(delta(made[name]), (U[:, :3] * s[:3]) @ Vh[:3]) < 1e-5


# Precision


def scaled_fp8(weight: torch.Tensor) -> dict[str, torch.Tensor]:
    scale = weight.abs().max() / 448
    return {
        "diffusion_model.layer.weight": (weight / scale).to(torch.float8_e4m3fn),
        "diffusion_model.layer.scale_weight": scale,
    }


def test_the_difference_of_quantised_weights_is_that_of_their_values():
    """A difference is below the steps of fp8, so it must be taken of the values, in float32."""
    base = random_weight((24, 16)) * 0.02
    tuned = drifted(base, 0.3)
    stored = [scaled_fp8(weight) for weight in (base, tuned)]
    values = [
        (part["diffusion_model.layer.weight"].double() * part["diffusion_model.layer.scale_weight"])
        .double()
        .numpy()
        for part in stored
    ]
    wanted = values[1] - values[0]
    in_fp8 = torch.tensor(wanted).to(torch.float8_e4m3fn).double().numpy()
    assert relative_error(in_fp8, wanted) > 0.02
    names = {"layer": WeightRef("diffusion_model.layer.weight")}
    models = (
        Model(n, "SDXL", StateDictWeights(part), names)
        for n, part in zip("AB", stored, strict=True)
    )
    result = extract_difference(*models, WHOLE)
    assert relative_error(delta(result.adapters[0]), wanted) < 1e-5
    assert len(result.report.rows) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_types_are_taken_as_they_are(dtype):
    base = random_weight((24, 16))
    tuned = drifted(base, 0.05).to(dtype)
    wanted = tuned.double().numpy() - base.to(dtype).double().numpy()
    assert relative_error(wanted * 0, wanted) > 0.1
    (adapter,) = extracted(base.to(dtype), tuned).adapters
    assert relative_error(delta(adapter), wanted) < 1e-5


# The job


class Watched(StateDictWeights):
    """Counts the weights that are held at the moment."""

    held: ClassVar[weakref.WeakSet] = weakref.WeakSet()
    most: ClassVar[int] = 0

    def read(self, key: str) -> torch.Tensor:
        weight = super().read(key).clone()
        Watched.held.add(weight)
        Watched.most = max(Watched.most, len(Watched.held))
        return weight


def test_two_weights_are_in_memory_at_a_time():
    Watched.held.clear()
    Watched.most = 0
    weights = stack([block(seed) for seed in range(4)])
    models = []
    for name, of_model in (("A", weights), ("B", noisy(weights, 0.1))):
        made = model_of_blocks(name, of_model)
        tensors = {key: made.weights.read(key) for key in made.weights}
        models.append(Model(name, "SDXL", Watched(tensors), made.key_map))
    assert len(extract_difference(*models).adapters) == 12
    assert Watched.most == 2


def test_progress_and_cancel():
    weights = stack([block(seed) for seed in range(2)])
    models = model_of_blocks("A", weights), model_of_blocks("B", noisy(weights, 0.1))
    seen: list[tuple[int, int, str]] = []
    extract_difference(*models, progress=lambda *at: seen.append(at))
    assert [at[:2] for at in seen] == [(i, 6) for i in range(7)]
    assert seen[0][2] == "lora_unet_blocks_0_attn_q"

    def cancel(done: int, total: int, name: str) -> None:
        if done == 3:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        extract_difference(*models, progress=cancel)


def test_the_models_stay_as_they_are():
    base, tuned = full_model("A"), tuned_model()
    before = {key: base.weights.read(key).clone() for key in base.weights}
    extract_difference(base, tuned)
    assert all(torch.equal(base.weights.read(key), before[key]) for key in before)


def test_files(tmp_path):
    """As the command line reads them, with names that follow from the keys."""
    from safetensors.torch import save_file

    shapes = {
        "double_blocks.0.img_attn.qkv.weight": (96, 32),
        "double_blocks.0.img_attn.proj.weight": (32, 32),
        "single_blocks.0.linear1.weight": (224, 32),
        "single_blocks.0.linear2.weight": (32, 160),
        "img_in.weight": (32, 64),
        "final_layer.linear.weight": (64, 32),
    }
    weights = {key: random_weight(shape, i) for i, (key, shape) in enumerate(shapes.items())}
    save_file(weights, tmp_path / "base.safetensors")
    tuned = {key: drifted(weight, 0.1) for key, weight in weights.items()}
    save_file(tuned, tmp_path / "tuned.safetensors")
    base = load_checkpoint(tmp_path / "base.safetensors")
    result = extract_difference(base, load_checkpoint(tmp_path / "tuned.safetensors"), WHOLE)
    named = rename(result.contents, base.key_map, base.architecture)
    assert len(named.adapters) == 6  # a fused weight is one module, and stays one
    got = added(base, named.adapters)
    for key, wanted in tuned.items():
        assert relative_error(weights[key].numpy(), wanted.numpy()) > 0.05
        assert relative_error(got[f"diffusion_model.{key}"].numpy(), wanted.numpy()) < 1e-5
