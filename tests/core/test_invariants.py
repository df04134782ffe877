"""What must hold of any transfer: linear in the update, blind to bases and to the order of keys."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from prolora.adapters import LoraAdapter, lora_state_dict, parse_adapter_file
from prolora.algebra.leading import common_subspaces
from prolora.algebra.updates import LowRankUpdate
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .dense_reference import dense_across, dense_pair, dense_project
from .small_models import delta, drifted, matrix, move, random_lora, random_weight
from .stacks import real_weight
from .strategies import Case, cases, dense, project

PROJECTED = ("full", "prolora", "subspace")
SEEDS = st.integers(0, 2**32 - 1)
FACTORS = st.floats(0.25, 2) | st.floats(-2, -0.25)


def whole_job(adapter: LoraAdapter, source: torch.Tensor, target: torch.Tensor, **choices):
    """What the adapter becomes, at a rank that cuts nothing."""
    rank = min(*matrix(source).shape, *matrix(target).shape)
    moved, row = move(adapter, source, target, rank=rank, **choices)
    assert row.status == "moved"
    return delta(moved)


def combined(one: LoraAdapter, other: LoraAdapter, a: float, b: float) -> LoraAdapter:
    """a times the one and b times the other, as one LoRA."""
    up = torch.cat([a * one.up, b * other.up], dim=1)
    return LoraAdapter(one.name, up, torch.cat([one.down, other.down]), None)


@pytest.mark.parametrize("mode", PROJECTED)
@given(case=cases(), seed=SEEDS, a=FACTORS, b=FACTORS)
def test_linear_in_the_update(mode: str, case: Case, seed: int, a: float, b: float):
    one = LoraAdapter("m", case.update.up, case.update.down, None)
    other = random_lora("m", tuple(case.source.shape), seed=seed)
    both = combined(one, other, a, b)
    pair = dense_pair(case.source.numpy(), case.target.numpy(), case.energy)
    want = dense_project(delta(both), *pair, mode)
    scale = abs(a) * np.linalg.norm(delta(one)) + abs(b) * np.linalg.norm(delta(other))
    assume(np.linalg.norm(delta(both) - want) > 1e-3 * scale)
    choices = {"mode": mode, "subspace_energy": case.energy}
    got, first, second = (
        whole_job(adapter, case.source, case.target, **choices) for adapter in (both, one, other)
    )
    assert np.linalg.norm(got - want) < 1e-5 * scale
    assert np.linalg.norm(a * first + b * second - want) < 1e-5 * scale


@pytest.mark.parametrize("shapes", [((24, 16), (48, 32)), ((12, 6, 3, 3), (12, 10, 3, 3))])
@given(seed=SEEDS, a=FACTORS, b=FACTORS)
def test_linear_across_widths(shapes, seed: int, a: float, b: float):
    source, target = real_weight(shapes[0], 1), real_weight(shapes[1], 2)
    one, other = (random_lora("m", shapes[0], seed=seed + i) for i in (0, 2))
    want = dense_across(a * delta(one) + b * delta(other), matrix(source), matrix(target), 0.8)
    choices = {"mode": "cross_width", "subspace_energy": 0.8}
    first, second = (whole_job(lora, source, target, **choices) for lora in (one, other))
    scale = abs(a) * np.linalg.norm(delta(one)) + abs(b) * np.linalg.norm(delta(other))
    assume(np.linalg.norm(first - want) > 1e-3 * scale)
    assert np.linalg.norm(a * first + b * second - want) < 1e-5 * scale
    got = whole_job(combined(one, other, a, b), source, target, **choices)
    assert np.linalg.norm(got - want) < 1e-5 * scale


def orthogonal(random: np.random.Generator, size: int) -> torch.Tensor:
    return torch.tensor(np.linalg.qr(random.normal(size=(size, size)))[0])


@pytest.mark.parametrize("mode", PROJECTED)
@given(case=cases(), seed=SEEDS)
def test_equivariant_under_changes_of_basis(mode: str, case: Case, seed: int):
    """P W_s Q, P W_t Q and P delta Q give P delta_t Q. In float64: in float32 the turned weights
    are rounded, and two singular values that lie close exchange their vectors."""
    pair = dense_pair(case.source.numpy(), case.target.numpy(), case.energy)
    m, n = case.source.shape
    random = np.random.default_rng(seed)
    P, Q = orthogonal(random, m), orthogonal(random, n)
    turned = LowRankUpdate(P @ case.update.up.double(), case.update.down.double() @ Q)
    want = P.numpy() @ dense_project(case.delta, *pair, mode) @ Q.numpy()
    scale = np.linalg.norm(case.delta)
    assume(np.linalg.norm(dense(turned) - want) > 1e-3 * scale)
    source, target = (P @ weight.double() @ Q for weight in (case.source, case.target))
    bases = common_subspaces(source, target, case.energy)
    got = dense(project(turned, bases.source, bases.target, mode))
    assert np.linalg.norm(got - want) < 1e-6 * scale


QKV = "double_blocks.0.img_attn.qkv"
PARTS = [f"transformer.transformer_blocks.0.attn.to_{name}" for name in "qkv"]
WEIGHTS = {
    **{name: real_weight((24, 16), i) for i, name in enumerate(("lora", "dora", "loha", "full"))},
    "conv": real_weight((12, 6, 3, 3), 7),
    QKV: torch.cat([real_weight((16, 16), 10 + i) for i in range(3)]),
}


def model(name: str, drift: float = 0.0) -> Model:
    names = {key: WeightRef(f"{key}.weight") for key in WEIGHTS}
    for i, part in enumerate(PARTS):
        names[part] = WeightRef(f"{QKV}.weight", Slice(0, 16 * i, 16))
    tensors = {f"{key}.weight": drifted(weight, drift) for key, weight in WEIGHTS.items()}
    return Model(name, "Flux", StateDictWeights(tensors | {"full.bias": torch.zeros(24)}), names)


def factors(name: str, shape: tuple[int, ...], seed: int) -> dict[str, torch.Tensor]:
    lora = random_lora(name, shape, seed=seed)
    return {f"{name}.lora_up.weight": lora.up, f"{name}.lora_down.weight": lora.down}


def hadamard(name: str) -> dict[str, torch.Tensor]:
    shapes = {"w1_a": (24, 2), "w1_b": (2, 16), "w2_a": (24, 2), "w2_b": (2, 16)}
    return {
        f"{name}.hada_{part}": random_weight(shape, 30 + i)
        for i, (part, shape) in enumerate(shapes.items())
    }


FILE = {
    **factors("lora", (24, 16), 20),
    "lora.alpha": torch.tensor(3.0),
    **factors("dora", (24, 16), 22),
    "dora.dora_scale": WEIGHTS["dora"].norm(dim=1, keepdim=True) * 1.1,
    **hadamard("loha"),
    "full.diff": random_weight((24, 16), 40),
    "full.diff_b": random_weight((24,), 41),
    **factors("conv", (12, 6, 3, 3), 24),
    **factors(PARTS[0], (16, 16), 50),
    **factors(PARTS[1], (16, 16), 52),
    **factors(PARTS[2], (16, 16), 54),
    "lora_te_of_no_model.lora_up.weight": torch.ones(8, 2),
    "lora_te_of_no_model.lora_down.weight": torch.ones(2, 8),
    "odd.key": torch.ones(1),
}


STATUS = {"full": "moved", "copy": "copied"}


@pytest.mark.parametrize("mode", STATUS)
@given(keys=st.permutations(list(FILE)))
def test_the_order_of_keys_does_not_count(mode: str, keys: list[str]):
    models, settings = (model("A"), model("B", 0.4)), TransferSettings(mode=mode, threshold=0.0)
    orders = (FILE, {key: FILE[key] for key in keys})
    one, other = (transfer_lora(parse_adapter_file(o, "file"), *models, settings) for o in orders)
    tensors, others = lora_state_dict(one.contents), lora_state_dict(other.contents)
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[key], others[key]) for key in tensors)
    assert {row.status for row in one.report.rows} == {STATUS[mode], "copied", "skipped"}
    rows, same = (sorted(map(repr, result.report.rows)) for result in (one, other))
    assert rows == same
    assert one.report.unknown_keys == other.report.unknown_keys
