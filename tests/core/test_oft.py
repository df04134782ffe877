"""OFT, against the libraries that write it: what they merge is what we read and move."""

import numpy as np
import pytest
import torch
from peft import OFTConfig

from prolora.adapters import parse_adapter_file, read_adapter_file
from prolora.adapters.adapter import Origin
from prolora.adapters.oft import make_oft
from prolora.errors import ProLoRAError

from .dense_families import assert_moved_as_the_reference, assert_the_same_weight_gives_it_back
from .libraries import MODULES, assert_reads_as_written, by_lycoris, by_peft, updates_in
from .small_models import SHAPES, delta, drifted, matrix, move, random_weight
from .strategies import formed, relative_error


def oft(name: str = "module", config: dict[str, object] | None = None, **parts: torch.Tensor):
    return make_oft(name, parts, Origin("style.safetensors", config or {}))


# --- LyCORIS


@pytest.mark.parametrize("blocks", [2, 3, 4, 100])
@pytest.mark.parametrize("rescaled", [False, True])
@pytest.mark.parametrize("constraint", [0, 0.05, 0.3])
def test_what_lycoris_merges(tmp_path, blocks, rescaled, constraint):
    """With 0.05 the constraint binds for every module, with 0.3 for some."""
    choices = {"linear_dim": blocks, "conv_dim": blocks, "constraint": constraint}
    written = by_lycoris(tmp_path, 0.5, algo="diag-oft", rescaled=rescaled, **choices)
    assert_reads_as_written(written)
    file = read_adapter_file(written.path)
    assert file.families == ("OFT",)
    notes = {adapter.note for adapter in file.adapters}
    assert all(("LyCORIS" in note) == bool(constraint) for note in notes)
    assert all(("rescale" in note) == rescaled for note in notes)


@pytest.mark.parametrize("name", ["lora_unet_mid", "diffusion_model.mid"])
def test_whose_constraint_it_is(name):
    """alpha * m of LyCORIS where the names are its own, alpha of ComfyUI where they are not."""
    blocks, weight = 9 * random_weight((6, 4, 4), seed=3), random_weight((24, 16))
    Q = blocks.double() - blocks.double().mT
    allowed = 0.1 * (24 if name == "lora_unet_mid" else 1)
    assert Q.norm() > 5 * allowed
    got = oft(name, oft_blocks=blocks, alpha=torch.tensor(0.1))
    inside = oft(name, oft_blocks=(blocks.double() * allowed / Q.norm()).float())
    free = oft(name, oft_blocks=blocks)
    want = formed(inside.update(weight))
    assert relative_error(formed(free.update(weight)), want) > 0.5
    assert relative_error(formed(got.update(weight)), want) < 1e-5
    assert ("ComfyUI does;" in got.note) == (name != "lora_unet_mid")
    assert inside.note == free.note == ""


def test_a_small_rotation_is_not_lost_to_rounding():
    blocks, weight = 1e-6 * random_weight((6, 4, 4)), random_weight((24, 16))
    got = formed(oft(oft_blocks=blocks).update(weight))
    Q = (blocks.double() - blocks.double().mT).numpy()
    identity = np.eye(4)
    R = (identity + Q) @ np.linalg.inv(identity - Q)
    want = np.einsum("knm,kni->kmi", R - identity, matrix(weight).reshape(6, 4, 16)).reshape(24, 16)
    assert relative_error(got, want) < 1e-6


def test_what_early_lycoris_wrote_is_left_out_by_name():
    file = parse_adapter_file({"lora_unet_mid.oft_diag": torch.eye(4).repeat(6, 1, 1)}, "file")
    assert file.left_out == {"lora_unet_mid": "the OFT of early LyCORIS is not moved"}


# --- PEFT and OneTrainer


def peft_config(**choices: object) -> OFTConfig:
    return OFTConfig(target_modules=list(MODULES), **choices)


@pytest.mark.parametrize("size", [{"oft_block_size": 4}, {"r": 2, "oft_block_size": 0}])
@pytest.mark.parametrize(
    "choices",
    [
        {},
        {"use_cayley_neumann": False},
        *({"num_cayley_neumann_terms": terms} for terms in (1, 2, 3, 4, 6)),
        {"block_share": True},
        {"block_share": True, "use_cayley_neumann": False},
        {"coft": True, "eps": 0.5},
        {"coft": True, "eps": 0.5, "use_cayley_neumann": False},
    ],
)
def test_what_peft_merges(tmp_path, size, choices):
    written = by_peft(tmp_path, peft_config(**size, **choices), 0.2)
    if choices.get("num_cayley_neumann_terms") == 1:  # R = I, whatever was trained
        updates = updates_in(written.path, written.weights)
        assert updates.keys() == written.updates.keys()
        assert not any(update.any() for update in updates.values())
    else:
        assert_reads_as_written(written)
    notes = {adapter.note for adapter in read_adapter_file(written.path).adapters}
    assert notes == {""}


@pytest.mark.parametrize("share", [False, True])
def test_without_a_config_peft_s_defaults_are_assumed(tmp_path, share):
    written = by_peft(tmp_path, peft_config(oft_block_size=4, block_share=share), 0.2)
    (tmp_path / "adapter_config.json").unlink()
    assert_reads_as_written(written)
    adapters = read_adapter_file(written.path).adapters
    assert all("adapter_config.json" in adapter.note for adapter in adapters)


def test_the_series_of_peft_before_0_18():
    """Its last term counts twice as the others do; its config does not name a version."""
    triangles, weight = 0.2 * random_weight((4, 6)), random_weight((24, 16))
    Q = torch.zeros(4, 4, 4, dtype=torch.float64)
    Q[(slice(None), *torch.triu_indices(4, 4, 1))] = triangles.double()
    Q = Q - Q.mT
    series = 2 * (Q + Q @ Q + Q @ Q @ Q + Q @ Q @ Q @ Q)
    want = matrix(weight) @ torch.block_diag(*series).mT.numpy()
    config = {"use_cayley_neumann": True, "num_cayley_neumann_terms": 5}
    old = formed(oft(config=config, oft_R=triangles).update(weight))
    new = formed(oft(config={**config, "peft_version": "0.18.0"}, oft_R=triangles).update(weight))
    assert relative_error(new, want) > 1e-2
    assert relative_error(old, want) < 1e-5


# Their own forwards are in trainers_oft.py, which test_writers.py reads.


def test_onetrainer_s_scale_is_by_the_side_of_a_block():
    """2 sqrt(b - 1), not the root of a block's numbers, which a draft of it had."""
    for b in (8, 32, 64, 128):
        stored, weight = 1e-3 * random_weight((2, b * (b - 1) // 2)), random_weight((24, 2 * b))
        tensors = {"lora_unet_mid.oft_R.weight": stored}
        (plain,) = parse_adapter_file(tensors, "file").adapters
        tensors["lora_unet_mid.oft_R.scaled_oft"] = torch.tensor(True)
        (scaled,) = parse_adapter_file(tensors, "file").adapters
        sizes = [np.linalg.norm(formed(adapter.update(weight))) for adapter in (plain, scaled)]
        assert sizes[0] / sizes[1] == pytest.approx(2 * (b - 1) ** 0.5, rel=1e-2)
        assert scaled.note == ""
        assert "adapter_config.json" in plain.note


# --- kohya's trainer


def test_what_kohya_calls_a_module_of_an_oft():
    """Its result is a LoRA, which goes by the name that every loader knows."""
    (adapter,) = parse_adapter_file({"oft_unet_mid.oft_blocks": SQUARE}, "file").adapters
    assert adapter.name == "lora_unet_mid"


def test_the_parts_of_a_fused_weight_turn_by_themselves():
    """As an OFT of each part alone would, whose constraints have the part's own size."""
    blocks = [9 * random_weight((4, b, b), seed=b) for b in (2, 2, 2, 5)]
    weight = random_weight((44, 16))
    numbered = {f"oft_blocks.{i}": A for i, A in enumerate(blocks)}
    alpha = {"alpha": torch.tensor(0.05)}
    got = formed(oft("oft_unet_mid", **numbered, **alpha).update(weight))
    rows = np.split(np.arange(44), [8, 16, 24])
    for A, own in zip(blocks, rows, strict=True):
        part = oft("oft_unet_mid", oft_blocks=A, **alpha)
        free = oft("oft_unet_mid", oft_blocks=A)
        want = formed(part.update(weight[own]))
        assert relative_error(formed(free.update(weight[own])), want) > 0.1
        assert relative_error(got[own], want) < 1e-6


def test_an_infinite_constraint_is_none():
    blocks, weight = random_weight((6, 4, 4)), random_weight((24, 16))
    adapters = [oft(oft_blocks=blocks, alpha=torch.tensor(limit)) for limit in (0.0, float("inf"))]
    free, infinite = (formed(adapter.update(weight)) for adapter in adapters)
    np.testing.assert_array_equal(free, infinite)


# --- Retargeted

MOVED = {
    "LyCORIS": lambda m, n: oft(oft_blocks=random_weight((m // 4, 4, 4)), rescale=ones(m)),
    "PEFT": lambda m, n: oft(
        config={"use_cayley_neumann": False}, oft_R=random_weight((n // 2, 1))
    ),
    "PEFT, shared": lambda m, n: oft(oft_R=0.2 * random_weight((1, 1))),
}


def ones(m: int) -> torch.Tensor:
    return 1 + 0.1 * random_weight((m,), seed=5)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
@pytest.mark.parametrize("kind", MOVED)
def test_moved_onto_the_same_weight(shape, kind):
    weight = random_weight(shape)
    m, n = weight.shape[0], weight[0].numel()
    assert_the_same_weight_gives_it_back(MOVED[kind](m, n), weight)


@pytest.mark.parametrize("mode", ["full", "prolora", "subspace"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=list(SHAPES))
def test_moved_between_drifted_weights(shape, mode):
    source = random_weight(shape)
    target = drifted(source)
    m = source.shape[0]
    blocks = random_weight((m // 4, 4, 4), seed=3)
    Q = (blocks - blocks.mT).double().numpy()
    turns = np.linalg.inv(np.eye(4) + Q) @ (np.eye(4) - Q)
    rotation = torch.block_diag(*torch.tensor(turns)).numpy()
    update = (rotation - np.eye(m)) @ matrix(source)
    assert_moved_as_the_reference(oft(oft_blocks=blocks), update, source, target, mode)


UNTRAINED = {
    "LyCORIS": {"oft_blocks": torch.zeros(6, 4, 4), "alpha": torch.tensor(0.1)},
    "LyCORIS, BOFT": {"oft_blocks": torch.zeros(3, 4, 6, 6), "alpha": torch.tensor(0.1)},
    "PEFT": {"oft_R": torch.zeros(8, 1)},
    "PEFT, blocks of one": {"oft_R": torch.zeros(16, 0)},
}


@pytest.mark.parametrize("kind", UNTRAINED)
def test_an_untrained_module_changes_nothing(kind):
    weight = random_weight((24, 16))
    adapter = oft(config={"coft": True}, **UNTRAINED[kind])
    assert not formed(adapter.update(weight)).any()
    moved, _ = move(adapter, weight, drifted(weight))
    assert not delta(moved).any()


# --- With magnitudes

NORMS = random_weight((24, 16)).norm(dim=1, keepdim=True)
FACTORS = 1 + 0.1 * random_weight((24, 1), seed=8)
MAGNITUDES = {
    "the norms of training beside it": {
        "dora_scale": 3 * FACTORS * NORMS,
        "initial_norm": 3 * NORMS,
    },
    "no norms": {"dora_scale": FACTORS * NORMS},
    "a factor": {"dora_multiplier": FACTORS.flatten()},
    "its logarithm": {"dora_log_multiplier": FACTORS.flatten().log()},
}


@pytest.mark.parametrize("kind", MAGNITUDES)
def test_a_moved_dora_multiplies_the_target_s_norms_by_the_same(kind):
    """The norms beside a magnitude are those of the weight that it was trained on."""
    weight, target = random_weight((24, 16)), 2 * random_weight((24, 16), seed=1)
    parts = {"oft_R.weight": 0.2 * random_weight((4, 6)), **MAGNITUDES[kind]}
    tensors = {f"lora_unet_mid.{part}": tensor for part, tensor in parts.items()}
    (adapter,) = parse_adapter_file(tensors, "file").adapters
    assert adapter.family == "DoRA over OFT"
    moved, row = move(adapter, weight, target)
    assert (row.status, moved.family) == ("moved", "DoRA")
    norms = target.norm(dim=1, keepdim=True)
    assert relative_error(moved.magnitude.numpy(), norms.numpy()) > 0.05
    assert relative_error(moved.magnitude.numpy(), (FACTORS * norms).numpy()) < 1e-6


# --- Refused

SQUARE = torch.ones(6, 4, 4)
BAD = {
    "blocks not square": ({"oft_blocks": torch.ones(6, 4, 3)}, r"oft_blocks \[6, 4, 3\]"),
    "no blocks": ({"oft_blocks": torch.ones(4, 4)}, r"oft_blocks \[4, 4\]"),
    "empty blocks": ({"oft_blocks": torch.ones(0, 4, 4)}, r"oft_blocks \[0, 4, 4\]"),
    "rescale too short": (
        {"oft_blocks": SQUARE, "rescale": torch.ones(23, 1)},
        r"a rescale \[23, 1\] for 24 outputs",
    ),
    "rescale alone": ({"rescale": torch.ones(24, 1)}, "has rescale: one of oft_blocks and oft_R"),
    "a part is missing": (
        {"oft_blocks.0": SQUARE, "oft_blocks.2": SQUARE},
        "has oft_blocks.0 and oft_blocks.2: a part before or between",
    ),
    "a part is not square": (
        {"oft_blocks.0": SQUARE, "oft_blocks.1": torch.ones(6, 4, 3)},
        r"oft_blocks.1 \[6, 4, 3\]",
    ),
    "parts and the whole": (
        {"oft_blocks": SQUARE, "oft_blocks.0": SQUARE},
        "has oft_blocks and oft_blocks.0: .* one only",
    ),
    "a constraint that is no number": (
        {"oft_blocks": torch.rand(6, 4, 4), "alpha": torch.zeros(2)},
        r"has not one number but \[2\] as its alpha",
    ),
    "two kinds": (
        {"oft_blocks": SQUARE, "oft_R": torch.ones(4, 6)},
        "has oft_R and oft_blocks: .* one only",
    ),
    "no triangle": ({"oft_R": torch.ones(4, 5)}, r"oft_R \[4, 5\]"),
    "no rows": ({"oft_R": torch.ones(0, 6)}, r"oft_R \[0, 6\]"),
    "a vector": ({"oft_R": torch.ones(6)}, r"oft_R \[6\]"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_modules(kind):
    parts, words = BAD[kind]
    with pytest.raises(ProLoRAError, match=rf"style\.safetensors: the module mid .*{words}.*again"):
        oft("mid", **parts)


BAD_MAGNITUDES = {
    "a factor of a LoRA": (
        {"lora_up.weight": torch.ones(24, 4), "lora_down.weight": torch.ones(4, 16)},
        {"dora_multiplier": torch.ones(24)},
        "a dora_multiplier beside a LoRA, not an OFT",
    ),
    "norms of another weight": (
        {"oft_R.weight": torch.ones(4, 6)},
        {"dora_scale": torch.ones(24, 1), "initial_norm": torch.ones(16)},
        r"a DoRA dora_scale \[24, 1\] but an initial_norm \[16\]",
    ),
}


@pytest.mark.parametrize("kind", BAD_MAGNITUDES)
def test_bad_magnitudes(kind):
    parts, magnitude, words = BAD_MAGNITUDES[kind]
    tensors = {f"mid.{part}": tensor for part, tensor in {**parts, **magnitude}.items()}
    with pytest.raises(ProLoRAError, match=rf"the module mid has {words}.*again"):
        parse_adapter_file(tensors, "file")


OTHER = {
    "outputs": ({"oft_blocks": SQUARE}, "outputs in 6 of blocks of 4"),
    "inputs": ({"oft_R": torch.ones(4, 6)}, "inputs in 4 of blocks of 4"),
    "shared": ({"oft_R": torch.ones(1, 6)}, "inputs in any number of blocks of 4"),
}


@pytest.mark.parametrize("kind", OTHER)
def test_blocks_that_do_not_divide_the_weight(kind):
    parts, words = OTHER[kind]
    with pytest.raises(ProLoRAError, match=rf"OFT of the module mid .*{words}.*\[22, 18\]"):
        oft("mid", **parts).update(random_weight((22, 18)))


def test_the_sides_that_the_tensors_tell():
    assert oft(oft_blocks=SQUARE).delta_shape == (24, None)
    assert oft(oft_R=torch.ones(4, 6)).delta_shape == (None, 16)
    assert oft(oft_R=torch.ones(1, 6)).delta_shape == (None, None)


@pytest.mark.parametrize(
    "config",
    [
        *({"num_cayley_neumann_terms": terms} for terms in (None, "a", 0, 1e30, [5])),
        *({"coft": True, "eps": eps} for eps in (None, "a", {}, float("nan"))),
    ],
    ids=str,
)
def test_a_configuration_of_nonsense(config):
    with pytest.raises(ProLoRAError, match="PEFT's configuration"):
        oft(config=config, oft_R=random_weight((4, 6)))


@pytest.mark.parametrize(
    "dtype", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "uint16", "uint32"]
)
@pytest.mark.parametrize("family", ["OFT", "LoKr"])
def test_an_alpha_of_a_type_that_torch_does_not_count_with(family, dtype):
    """As in a file all of whose tensors were made fp8."""
    if not hasattr(torch, dtype):
        pytest.skip(f"this torch has no {dtype}")
    blocks = {
        "OFT": {"oft_blocks": random_weight((6, 4, 4))},
        "LoKr": {"lokr_w1": SQUARE[0], "lokr_w2": SQUARE[0]},
    }
    deltas = []
    for alpha in (torch.tensor(2.0), torch.tensor(2.0).to(getattr(torch, dtype))):
        parts = {"alpha": alpha, **blocks[family]}
        tensors = {f"diffusion_model.mid.{role}": tensor for role, tensor in parts.items()}
        (adapter,) = parse_adapter_file(tensors, "file").adapters
        deltas.append(adapter.delta(random_weight((24, 24) if family == "OFT" else (16, 16))))
    assert deltas[0].abs().max() > 0
    assert torch.equal(*deltas)
