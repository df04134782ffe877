"""The rivals of docs/evidence.md, against dense formulas and models that are rotated by hand."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft import LoraConfig

from benchmarks.evidence.patched import patched
from benchmarks.evidence.rivals import casa_of_nothing, denoising, orthogonal, theseus
from prolora.adapters import FullDifference, read_adapter_file
from prolora.adapters.dora import DoraAdapter
from prolora.algebra.casa import arbitrate
from prolora.models.model import Model
from prolora.models.references import WeightRef
from prolora.models.weights import StateDictWeights
from prolora.transfer.job import transfer_lora
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from .libraries import MODULES, Net, by_peft
from .running_models import (
    WIDTH,
    clean,
    drifted,
    lora_file,
    model_of,
    network_of,
    source,
    with_lora,
)
from .small_models import delta, file_of, matrix, random_weight
from .strategies import relative_error

SPLIT = ("conv_in", "q", "k", "v", "proj", "conv_out")  # one weight in three parts
FUSED = ("conv_in", "qkv", "proj", "conv_out")
TARGET = drifted()
CASA = TransferSettings(mode="casa", threshold=0)


def resolved(file, module=None):
    return resolve(file, model_of(module or source()))


def weights(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The source's and the target's, or the rows of both."""
    cpu, place = torch.device("cpu"), model_of(source()).resolve(name)
    both = (model_of(module) for module in (source(), TARGET))
    return tuple(model.weight(place, cpu, torch.float64).flatten(1) for model in both)


def dense(adapter) -> np.ndarray:
    return matrix(adapter.update(torch.zeros(0)).delta)


# --- orthogonal ---------------------------------------------------------------------------------


def without_drift(update: np.ndarray, name: str) -> np.ndarray:
    ours, theirs = (weight.numpy() for weight in weights(name))
    drift = theirs - ours
    return update - (update * drift).sum() / (drift * drift).sum() * drift


def along_drift():
    """A LoRA that is partly the drift itself, by its leading directions."""
    loras = []
    for adapter in lora_file("qkv", "proj", "conv_out", rank=3).adapters:
        ours, theirs = weights(adapter.name)
        U, S, Vh = torch.linalg.svd(theirs - ours, full_matrices=False)
        up = (U[:, :3] * S[:3]).float().reshape(adapter.up.shape)
        loras.append(replace(adapter, up=up, down=Vh[:3].float().reshape(adapter.down.shape)))
    return file_of(*(replace(lora, alpha=None) for lora in loras))


@pytest.mark.parametrize("file", [lora_file(*SPLIT), along_drift()], ids=["random", "drift"])
def test_orthogonal_takes_the_part_along_the_drift_away(file):
    moved = orthogonal(resolved(file), model_of(TARGET)).adapters
    before = {adapter.name: delta(adapter) for adapter in file.adapters}
    assert {adapter.name for adapter in moved} == set(before)
    for adapter in moved:
        wanted = before[adapter.name]
        if adapter.name == "qkv":  # q, k and v by themselves
            parts = zip(np.split(wanted, 3), "qkv", strict=True)
            wanted = np.concatenate([without_drift(part, name) for part, name in parts])
        else:
            wanted = without_drift(wanted, adapter.name)
        assert isinstance(adapter, FullDifference)
        assert relative_error(dense(adapter), wanted) < 1e-5


def test_the_part_along_the_drift_is_large_in_a_lora_of_drift():
    for adapter in along_drift().adapters:
        if adapter.name != "qkv":
            before = delta(adapter)
            assert relative_error(before, without_drift(before, adapter.name)) > 0.3


def test_orthogonal_of_equal_models_is_the_lora_itself():
    file = lora_file(*FUSED)
    moved = orthogonal(resolved(file), model_of(source())).adapters
    for before, after in zip(file.adapters, moved, strict=True):
        assert relative_error(dense(after), delta(before)) < 1e-6


def test_a_dora_keeps_its_magnitude_ratio_and_its_direction_is_orthogonal():
    lora = lora_file("proj").adapters[0]
    magnitude = random_weight((WIDTH, 1)).abs()
    (moved,) = orthogonal(
        resolved(file_of(DoraAdapter(lora, magnitude, 0))), model_of(TARGET)
    ).adapters
    ours, theirs = weights("proj")
    wanted = magnitude.double() * theirs.norm(dim=1, keepdim=True) / ours.norm(dim=1, keepdim=True)
    assert isinstance(moved, DoraAdapter)
    assert isinstance(moved.direction, FullDifference)
    assert relative_error(dense(moved.direction), without_drift(delta(lora), "proj")) < 1e-5
    assert relative_error(moved.magnitude.numpy(), wanted.numpy()) < 1e-5


# --- casa of nothing ----------------------------------------------------------------------------


@pytest.mark.parametrize("names", [SPLIT, FUSED], ids=["split", "fused"])
def test_casa_of_nothing_is_what_casa_adds_to_no_update(names):
    moved = casa_of_nothing(resolved(lora_file(*names)), model_of(TARGET), CASA).adapters
    assert [adapter.name for adapter in moved] == list(names)
    for adapter in moved:
        parts = ("q", "k", "v") if adapter.name == "qkv" else (adapter.name,)
        wanted = []
        for part in parts:
            ours, theirs = weights(part)
            dense_result = arbitrate(torch.zeros_like(ours), ours, theirs)
            U, S, Vh = torch.linalg.svd(dense_result, full_matrices=False)
            wanted.append((U[:, :2] * S[:2] @ Vh[:2]).numpy())
        assert adapter.rank == 2 * len(parts)
        assert relative_error(delta(adapter), np.concatenate(wanted)) < 1e-3


def test_casa_of_nothing_does_not_depend_on_the_updates():
    small, large = (lora_file(*FUSED, scale=scale) for scale in (0.1, 3.0))
    of_small, of_large = (
        casa_of_nothing(resolved(file), model_of(TARGET), CASA).adapters for file in (small, large)
    )
    for one, other in zip(of_small, of_large, strict=True):
        assert torch.equal(one.up, other.up)
        assert torch.equal(one.down, other.down)
    with_updates = [
        transfer_lora(file, model_of(source()), model_of(TARGET), CASA).adapters
        for file in (small, large)
    ]
    assert all(
        relative_error(delta(one), delta(other)) > 0.1
        for one, other in zip(*with_updates, strict=True)
    )


def test_casa_of_nothing_is_nothing_between_equal_models():
    moved = casa_of_nothing(resolved(lora_file(*FUSED)), model_of(source()), CASA).adapters
    assert all(not delta(adapter).any() for adapter in moved)


# --- theseus ------------------------------------------------------------------------------------


def rotated():
    """The source with other hidden bases; it computes the same.

    tanh commutes with signed permutations alone; queries and keys, and values, take any rotation.
    """
    target = copy.deepcopy(source())
    generator = torch.Generator().manual_seed(5)
    signs = torch.randn(WIDTH, generator=generator).sign()
    P = torch.eye(WIDTH)[torch.randperm(WIDTH, generator=generator)] * signs
    R, S = (torch.linalg.qr(random_weight((WIDTH, WIDTH), seed)).Q for seed in (6, 7))
    block = target.blocks[0]
    outputs = [
        (target.conv_in, P),
        (target.level, P),
        (block.text, P),
        (block.qkv, torch.block_diag(R, R, S)),
        (block.proj, P),
    ]
    inputs = [(block.qkv, P), (block.proj, S), (target.conv_out, P)]
    with torch.no_grad():
        for layer, Q in outputs:
            layer.weight.copy_(torch.einsum("ab,b...->a...", Q, layer.weight))
            layer.bias.copy_(Q @ layer.bias)
        for layer, Q in inputs:
            layer.weight.copy_(torch.einsum("ob...,ab->oa...", layer.weight, Q))
    return target


ROTATED = rotated()


def examples(count: int = 24):
    generator = torch.Generator().manual_seed(3)
    prompts = [clean().prompts[i % 3] for i in range(count)]
    latents = torch.randn(count, 4, 8, 8, generator=generator)
    return latents, torch.rand(count, generator=generator), prompts


def running(module):
    return denoising(network_of(module), *examples())


def answers(network) -> np.ndarray:
    with torch.no_grad():
        return network.denoise(*examples()).double().numpy()


@pytest.mark.parametrize("positions", [1024, 8])
@pytest.mark.parametrize("names", [SPLIT, FUSED], ids=["split", "fused"])
def test_theseus_is_exact_where_the_target_is_the_source_in_other_bases(names, positions):
    file = lora_file(*names, scale=0.3)
    without, wanted = answers(network_of(source())), answers(with_lora(source(), file.adapters))
    assert relative_error(answers(network_of(ROTATED)), without) < 1e-5
    effect = wanted - without

    copied = transfer_lora(
        file, model_of(source()), model_of(ROTATED), TransferSettings(mode="copy")
    )
    both = running(source()), running(ROTATED)
    moved = theseus(resolved(file), model_of(ROTATED), *both, 24, positions)
    of_copied, of_moved = (
        answers(with_lora(ROTATED, result.adapters)) - without for result in (copied, moved)
    )
    assert relative_error(of_copied, effect) > 0.7
    assert relative_error(of_moved, effect) < 1e-3
    assert all(row.status == "moved" and not row.reason for row in moved.report.rows)


def test_theseus_is_two_procrustes_maps_of_what_the_layers_are_given():
    file = lora_file("proj")
    heard = []
    for module in (source(), TARGET):
        rows = []
        layer = module.blocks[0].proj
        handle = layer.register_forward_hook(lambda _, x, y, rows=rows: rows.append((x[0], y)))
        answers(network_of(module))
        handle.remove()
        heard.append([side.flatten(0, 1).double().numpy() for side in rows[0]])

    def polar(cross):
        U, _, Vh = np.linalg.svd(cross)
        return U @ Vh

    T_in, T_out = (polar(ours.T @ theirs) for ours, theirs in zip(*heard, strict=True))
    wanted = T_out.T @ delta(file.adapters[0]) @ T_in
    both = running(source()), running(TARGET)
    (moved,) = theseus(resolved(file), model_of(TARGET), *both, 24).adapters
    assert relative_error(delta(file.adapters[0]), wanted) > 0.1
    assert relative_error(delta(moved), wanted) < 1e-4
    assert moved.rank == file.adapters[0].rank


def test_theseus_says_what_it_could_not_listen_to():
    file = lora_file("proj", "conv_out")
    one, other = running(source()), running(TARGET)
    deaf = replace(one, layers={k: v for k, v in one.layers.items() if "conv_out" not in k})
    result = theseus(resolved(file), model_of(TARGET), deaf, other, 24)
    moved = {adapter.name: delta(adapter) for adapter in result.adapters}
    rows = {row.name: row for row in result.report.rows}
    assert "copied: its weight is no layer" in rows["conv_out"].reason
    assert not rows["proj"].reason
    assert relative_error(moved["conv_out"], delta(file.adapters[1])) < 1e-6
    assert relative_error(moved["proj"], delta(file.adapters[0])) > 0.1


# --- patched ------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [SPLIT, (*FUSED, "text", "level")], ids=["split", "fused"])
def test_a_patched_model_answers_as_with_the_lora_and_is_itself_again(names):
    file, network = lora_file(*names, scale=0.3), network_of(TARGET)
    before = {key: value.clone() for key, value in TARGET.state_dict().items()}
    without, wanted = answers(network), answers(with_lora(TARGET, file.adapters))
    assert relative_error(without, wanted) > 0.05
    with patched(network.layers, model_of(TARGET), file.adapters):
        assert relative_error(answers(network), wanted) < 1e-5
    assert all(torch.equal(before[key], value) for key, value in TARGET.state_dict().items())


def test_a_patched_model_is_itself_again_after_an_error():
    network, before = network_of(TARGET), TARGET.conv_in.weight.clone()
    good, bad = lora_file("conv_in", "proj").adapters
    adapters = [good, replace(bad, name="nowhere")]
    with (
        pytest.raises(ValueError, match="nowhere is no layer of A"),
        patched(network.layers, model_of(TARGET), adapters),
    ):
        pass
    assert torch.equal(TARGET.conv_in.weight, before)


def test_a_dora_is_patched_in_as_peft_merges_it(tmp_path):
    config = LoraConfig(r=4, lora_alpha=4, use_dora=True, target_modules=list(MODULES))
    written = by_peft(tmp_path, config, std=0.3)
    network, refs = Net(), {}
    layers = {f"{name}.weight": network.get_submodule(name) for name in MODULES}
    for name, weight in written.weights.items():
        refs[name] = WeightRef(f"{name.rsplit('.', 1)[-1]}.weight")
        layers[refs[name].key].weight.data = weight.clone()
    model = Model("net", "Net", StateDictWeights(network.state_dict()), refs)
    adapters = read_adapter_file(written.path).adapters
    with patched(layers, model, adapters):
        for adapter in adapters:
            weight, update = written.weights[adapter.name], written.updates[adapter.name]
            change = layers[refs[adapter.name].key].weight.detach() - weight
            assert relative_error(matrix(adapter.update(weight).delta), update) > 0.1
            assert relative_error(matrix(change), update) < 1e-5
