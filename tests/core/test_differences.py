"""Differences of weights, norms and biases, padded weights, and keys that belong to no module."""

import lycoris
import numpy as np
import pytest
import torch

from prolora.adapters import AdapterFile, lora_state_dict, parse_adapter_file, read_adapter_file
from prolora.adapters.difference import FullDifference
from prolora.errors import ProLoRAError
from prolora.files.safetensors import write_safetensors
from prolora.inspection import describe_adapter
from prolora.models.key_map import model_of as model_of_file
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights
from prolora.transfer.assemble import TransferResult
from prolora.transfer.job import transfer_lora
from prolora.transfer.report import ModuleReport
from prolora.transfer.report_text import summary_of
from prolora.transfer.settings import TransferSettings

from .dense_reference import dense_pair, dense_project
from .libraries import (
    Net,
    assert_reads_as_written,
    assert_same_updates,
    by_lycoris,
    lycoris_updates,
    randomise,
)
from .small_models import SHAPES, delta, drifted, matrix, model_of, move, random_lora, random_weight
from .strategies import relative_error

LOW = TransferSettings("full", threshold=0.0)


def reference(update: np.ndarray, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """What the method gives; far from the update that was not moved."""
    want = dense_project(update, *dense_pair(source, target, 0.8), "full")
    assert relative_error(update, want) > 0.1
    return want


# Full differences


def full_network(folder):
    """LyCORIS' full algorithm with norms, random values, saved; the network and its file."""
    torch.manual_seed(0)
    network = lycoris.create_lycoris(Net(), algo="full", train_norm=True)
    network.apply_to()
    randomise(network)
    network.save_weights(str(folder / "full.safetensors"), torch.float32, {})
    return network, read_adapter_file(folder / "full.safetensors")


def test_lycoris(tmp_path):
    written = by_lycoris(tmp_path, algo="full", train_norm=True)
    file = read_adapter_file(written.path)
    assert (file.families, file.unknown) == (("full difference",), ())
    assert {adapter.rank for adapter in file.adapters} == {0}
    assert_reads_as_written(written)


def test_the_norms_and_biases_of_lycoris(tmp_path):
    network, file = full_network(tmp_path)
    got = {(part.name, part.of_bias): part.tensor for part in file.vector_patches}
    assert len(got) == len(file.vector_patches) == 5  # three biases, and both parts of the norm
    for module in network.loras:
        weight, bias = module.get_merged_weight()
        if module.lora_name == "lycoris_norm":
            norm = module.org_module[0]
            pairs = {False: (weight, norm.weight), True: (bias, norm.bias)}
        else:
            pairs = {True: (bias, module.org_bias[0])}
        for of_bias, (after, before) in pairs.items():
            want = (after - before).detach().numpy()
            assert np.linalg.norm(want) > 0.1
            assert relative_error(got[module.lora_name, of_bias].numpy(), want) < 1e-5


def moved_to_itself(file: AdapterFile, net: Net) -> TransferResult:
    weights = dict(net.state_dict())
    names = {f"lycoris_{key.removesuffix('.weight')}": key for key in weights if "weight" in key}
    refs = {name: WeightRef(key) for name, key in names.items()}
    model = Model("A", "net", StateDictWeights(weights), refs)
    return transfer_lora(file, model, model, LOW)


def test_lycoris_reads_what_we_write(tmp_path):
    """Between equal models, all of it: nothing is lost on the way."""
    network, file = full_network(tmp_path)
    result = moved_to_itself(file, Net())
    assert len(result.contents) == 8
    write_safetensors(lora_state_dict(result.contents), tmp_path / "ours.safetensors", {})
    ours, _ = lycoris.create_lycoris_from_weights(1, str(tmp_path / "ours.safetensors"), Net())
    assert_same_updates(lycoris_updates(ours), lycoris_updates(network))
    norms = [m for net in (network, ours) for m in net.loras if m.lora_name == "lycoris_norm"]
    assert len(norms) == 2
    for part in ("w_norm", "b_norm"):
        assert torch.equal(*(getattr(norm, part) for norm in norms))


@pytest.mark.parametrize("kind", SHAPES)
def test_a_full_difference_stays_one(kind):
    source = random_weight(SHAPES[kind])
    target, diff = drifted(source), random_weight(SHAPES[kind], 7)
    moved, row = move(FullDifference("layer", diff), source, target)
    want = reference(matrix(diff), matrix(source), matrix(target))
    assert (row.status, row.rank_out, row.energy_dropped) == ("moved", 0, 0)
    assert moved.diff.shape == target.shape
    assert relative_error(matrix(moved.diff), want) < 1e-5
    assert lora_state_dict([moved]).keys() == {"layer.diff"}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_full_difference_of_a_chosen_rank_is_a_lora(kind):
    source = random_weight(SHAPES[kind])
    target, diff = drifted(source), random_weight(SHAPES[kind], 7)
    moved, row = move(FullDifference("layer", diff), source, target, rank=3)
    U, s, Vh = np.linalg.svd(reference(matrix(diff), matrix(source), matrix(target)))
    assert relative_error(delta(moved), (U[:, :3] * s[:3]) @ Vh[:3]) < 1e-5
    assert row.energy_dropped == pytest.approx((s[3:] ** 2).sum() / (s**2).sum())
    assert moved.down.shape[1:] == target.shape[1:]


def test_a_1x1_convolution_becomes_a_linear_layer():
    """The result has the target's shape, which ComfyUI compares."""
    source = random_weight((16, 24, 1, 1))
    moved, _ = move(FullDifference("layer", source), source, drifted(source).flatten(1))
    assert moved.diff.shape == (16, 24)


# Vectors


def model(name: str, **tensors: torch.Tensor) -> Model:
    """Modules `norm`, `linear`, and q, k, v of one fused weight; a bias may be named by itself."""
    shapes = {
        "norm.weight": (16,),
        "norm.bias": (16,),
        "linear.weight": (24, 16),
        "linear.bias": (24,),
        "plain.weight": (24, 16),
        "qkv.weight": (72, 16),
        "qkv.bias": (72,),
        "in_proj_weight": (72, 16),
        "in_proj_bias": (72,),
    }
    weights = {key: random_weight(shape) for key, shape in shapes.items()} | tensors
    refs = {key.removesuffix(".weight"): WeightRef(key) for key in weights}
    for i, part in enumerate("qkv"):
        refs[part] = WeightRef("qkv.weight", Slice(0, 24 * i, 24))
        refs[f"in_{part}"] = WeightRef("in_proj_weight", Slice(0, 24 * i, 24))
    refs["columns"] = WeightRef("linear.weight", Slice(1, 0, 8))
    return Model(name, "net", StateDictWeights(weights), refs)


def carry(key: str, tensor: torch.Tensor, target: Model | None = None) -> tuple[dict, ModuleReport]:
    """One difference beside a LoRA, which alone would be moved; what is written of it."""
    lora = random_lora("plain", (24, 16))
    file = parse_adapter_file(lora_state_dict([lora]) | {key: tensor}, "style.safetensors")
    result = transfer_lora(file, model("A"), target or model("B"), LOW)
    written = lora_state_dict(result.contents)
    written = {key: value for key, value in written.items() if not key.startswith("plain.lora")}
    return written, result.report.rows[1]


# Key in the file -> shape, key that is written, what it is called.
CARRIED = {
    "norm.diff": ((16,), "norm.diff", "vector difference"),
    "norm.w_norm": ((16,), "norm.w_norm", "norm difference"),
    "norm.b_norm": ((16,), "norm.diff_b", "bias difference"),  # alone, ComfyUI would not read it
    "norm.diff_b": ((16,), "norm.diff_b", "bias difference"),
    "norm.bias.diff": ((16,), "norm.bias.diff", "vector difference"),
    "norm.set_weight": ((16,), "norm.set_weight", "set weight"),
    "linear.set_weight": ((24, 16), "linear.set_weight", "set weight"),
    "linear.diff_b": ((24,), "linear.diff_b", "bias difference"),
    "columns.diff_b": ((24,), "columns.diff_b", "bias difference"),
    "in_v.diff_b": ((24,), "in_v.diff_b", "bias difference"),
}


@pytest.mark.parametrize("key", CARRIED)
def test_carried(key):
    shape, written_key, kind = CARRIED[key]
    tensor = random_weight(shape, 3)
    written, row = carry(key, tensor)
    written.pop("plain.alpha")
    assert written.keys() == {written_key}
    assert torch.equal(written[written_key], tensor)
    assert (row.status, row.name, row.family) == ("copied", written_key, kind)
    assert row.reason.startswith(f"a {kind} has no subspaces to project")
    assert row.reason.endswith("keeps fused") == key.startswith("in_v.")
    assert row.source_shape == row.target_shape == shape


def test_the_bias_of_a_part_is_written_for_the_whole():
    """No loader reads the bias of a part; rows without one get zeros, which change nothing."""
    tensor = random_weight((24,), 3)
    written, row = carry("q.diff_b", tensor)
    assert (row.status, row.reason) == ("copied", "a bias difference has no subspaces to project")
    assert torch.equal(written["qkv.diff_b"][:24], tensor)
    assert written["qkv.diff_b"].shape == (72,)
    assert not written["qkv.diff_b"][24:].any()


SKIPPED = {
    "not in the source": ("absent.diff_b", (24,), "not in the source A"),
    "no bias": ("plain.diff_b", (24,), "no bias in the source A"),
    "another shape": ("norm.diff", (17,), "a vector difference of another shape than in the so"),
    "a fused bias whole": ("q.diff_b", (72,), "a bias difference of another shape than in the so"),
    "a set weight": ("linear.set_weight", (16, 24), "a set weight of another shape than in the s"),
    "a bias of a lone bias": ("norm.bias.diff_b", (16,), "no bias in the source A"),
    "another target": ("linear.diff_b", (24,), "a bias difference of another shape than in the ta"),
}


@pytest.mark.parametrize("kind", SKIPPED)
def test_left_out_with_a_reason(kind):
    key, shape, reason = SKIPPED[kind]
    target = model("B", **{"linear.bias": random_weight((32,))})
    written, row = carry(key, random_weight(shape), target)
    assert written.keys() == {"plain.alpha"}
    assert row.status == "skipped"
    assert row.reason.startswith(reason)


def test_a_bias_beside_a_lora_has_its_scale():
    """As PEFT merges it: scale * lora_B.bias; the update of the weight is as without it."""
    lora = random_lora("linear", (24, 16), alpha=6.0)
    bias = random_weight((24,), 3)
    tensors = lora_state_dict([lora]) | {"linear.lora_B.bias": bias}
    file = parse_adapter_file(tensors, "style.safetensors")
    result = transfer_lora(file, model("A"), model("B"), LOW)
    assert torch.equal(lora_state_dict(result.vector_patches)["linear.diff_b"], 1.5 * bias)
    assert result.report.count("copied") == 2
    assert len(file.module_names) == 1


def test_only_differences_are_left():
    """A threshold that no module reaches leaves a result of no update: that is told."""
    tensors = lora_state_dict([random_lora("plain", (24, 16))]) | {"linear.diff_b": torch.ones(24)}
    file = parse_adapter_file(tensors, "style.safetensors")
    target = model("B", **{"plain.weight": random_weight((24, 16), 50)})
    result = transfer_lora(file, model("A"), target, TransferSettings(threshold=0.99))
    assert lora_state_dict(result.contents).keys() == {"linear.diff_b"}
    assert "NO UPDATE OF A WEIGHT WAS MOVED" in summary_of(result.report)


def test_a_file_of_differences_alone():
    tensors = {"norm.w_norm": random_weight((16,)), "norm.b_norm": random_weight((16,))}
    file = parse_adapter_file(tensors, "style.safetensors")
    assert "2 of kind" not in describe_adapter(file)
    assert "1 of kind norm difference: carried over as they are" in describe_adapter(file)
    result = transfer_lora(file, model("A"), model("B"), LOW)
    assert lora_state_dict(result.contents).keys() == tensors.keys()
    assert "2 of 2 modules transferred" in summary_of(result.report)
    other = model("B", **{"norm.weight": torch.ones(8), "norm.bias": torch.ones(8)})
    with pytest.raises(ProLoRAError, match=r"Nothing of the LoRA .* norm\.w_norm: a norm differ"):
        transfer_lora(file, model("A"), other, LOW)


def test_without_a_host_norms_have_names():
    keys = ["input_blocks.1.0.in_layers.0", "out.0", "input_blocks.1.1.norm"]
    tensors = {f"model.diffusion_model.{key}.weight": torch.ones(8) for key in keys}
    names = model_of_file("", StateDictWeights(tensors)).key_map
    for name, key in (
        ("lora_unet_input_blocks_1_0_in_layers_0", keys[0]),
        ("lora_unet_down_blocks_0_resnets_0_norm1", keys[0]),
        ("unet.conv_norm_out", keys[1]),
        ("lycoris_down_blocks_0_attentions_0_norm", keys[2]),
    ):
        assert names[name].key == f"diffusion_model.{key}.weight"


# Padded weights


@pytest.mark.parametrize("shape", [(24, 32), (30, 32), (24, 16)])
def test_a_padded_weight(shape):
    """ComfyUI pads the weight with zeros first; the reference does so by hand."""
    source = random_weight((24, 16))
    target = drifted(source)
    tensors = lora_state_dict([random_lora("img_in", shape, alpha=6.0)])
    tensors["img_in.reshape_weight"] = torch.tensor(shape)
    (adapter,) = parse_adapter_file(tensors, "control.safetensors").adapters
    moved, row = move(adapter, source, target)
    room = [(0, after - before) for before, after in zip((24, 16), shape, strict=True)]
    padded = [np.pad(matrix(weight), room) for weight in (source, target)]
    assert relative_error(delta(moved), reference(delta(adapter), *padded)) < 1e-5
    assert row.reason == f"the weight is padded with zeros to {shape[0]} x {shape[1]}"
    assert lora_state_dict([moved])["img_in.reshape_weight"].tolist() == list(shape)


@pytest.mark.parametrize("shape", [(24, 12), (20, 20)])
def test_a_weight_that_is_larger_than_its_padding(shape):
    tensors = lora_state_dict([random_lora("img_in", shape)])
    tensors["img_in.reshape_weight"] = torch.tensor(shape)
    file = parse_adapter_file(tensors, "control.safetensors")
    models = [model_of(name, {"img_in": random_weight((24, 16))}) for name in "AB"]
    with pytest.raises(
        ProLoRAError, match=rf"a weight of {shape[0]} x {shape[1]}, and there .* 24"
    ):
        transfer_lora(file, *models, LOW)


def test_a_padding_in_the_source_only():
    """A target whose layer has all the inputs already."""
    tensors = lora_state_dict([random_lora("img_in", (24, 32))])
    tensors["img_in.reshape_weight"] = torch.tensor((24, 32))
    (adapter,) = parse_adapter_file(tensors, "control.safetensors").adapters
    source, target = random_weight((24, 16)), random_weight((24, 32), 9)
    moved, _ = move(adapter, source, target)
    padded = np.pad(matrix(source), [(0, 0), (0, 16)])
    assert relative_error(delta(moved), reference(delta(adapter), padded, matrix(target))) < 1e-5


# Keys that are known and not moved


def test_modulations_and_bundled_embeddings():
    tensors = lora_state_dict([random_lora("blocks.0.q", (24, 16))])
    tensors |= {"blocks.0.diff_m": torch.ones(1, 6, 16)}
    tensors |= {f"bundle_emb.word.{key}": torch.ones(2, 8) for key in ("clip_l", "t5_out", "alpha")}
    file = parse_adapter_file(tensors, "style.safetensors")
    assert (len(file.adapters), file.unknown) == (1, ())
    assert list(file.left_out) == ["blocks.0"]
    assert "diff_m, LightX2V's for Wan" in file.left_out["blocks.0"]
    (note,) = file.notes
    assert note.startswith("3 tensors are embeddings that OneTrainer bundled")


UP, DOWN, V = torch.ones(24, 4), torch.ones(4, 16), torch.ones(24)
LORA = {"lora_up.weight": UP, "lora_down.weight": DOWN}
BROKEN = {
    "two families": ({**LORA, "diff": torch.ones(24, 16)}, "tensors of LoRA and full difference"),
    "two of a weight": (
        {**LORA, "set_weight": V},
        "two changes of one weight: LoRA and set_weight",
    ),
    "a norm twice": ({"w_norm": V, "diff": V}, "two changes of one weight: diff and w_norm"),
    "two of a bias": ({"diff_b": V, "b_norm": V}, "two changes of one bias: diff_b and b_norm"),
    "a bias twice": ({**LORA, "lora_up.bias": V, "diff_b": V}, "bias: diff_b and up_bias.*again"),
    "a bias alone": ({"lora_B.bias": V}, "the bias of a LoRA up but no LoRA down"),
    "a bias and half": ({"lora_B.bias": V, "lora_B.weight": UP}, "LoRA up but no LoRA down"),
    "an empty diff": ({"diff": torch.ones(24, 0)}, r"an empty diff \[24, 0\]"),
    "a magnitude": ({"diff": torch.ones(24, 16), "dora_scale": V}, "DoRA magnitude over a full"),
    "NaN": ({"diff_b": V * float("nan")}, "diff_b of the module m, .*NaN"),
    "whole numbers": ({"diff": V.to(torch.int8)}, "stored as torch.int8"),
    "padded wrongly": (
        {**LORA, "reshape_weight": torch.tensor([24, 20])},
        r"a reshape_weight \[24, 20\] but an update of 24 x 16.*again",
    ),
    "padded to a vector": ({**LORA, "reshape_weight": torch.tensor([384])}, r"weight \[384\] but"),
    "padded to nothing": ({**LORA, "reshape_weight": torch.ones(0)}, r"weight \[\] but"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_modules(kind):
    parts, words = BROKEN[kind]
    with pytest.raises(ProLoRAError, match=rf"^style\.safetensors: .*{words}"):
        parse_adapter_file({f"m.{k}": v for k, v in parts.items()}, "style.safetensors")
