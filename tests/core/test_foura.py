"""FouRA: the folded factors equal the reference forward, with the transforms as matrices."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prolora.adapters import lora_state_dict, parse_adapter_file
from prolora.errors import ProLoRAError

from .small_models import drifted, move, random_weight
from .strategies import formed, relative_error

PAGE = Path(__file__).parents[2] / "docs" / "foura.md"
DFT, DCT = 0, 1
SHAPES = [(24, 16), (15, 21), (16, 16), (1, 7)]
ALPHA, RANK = 6.0, 4
SCALE = ALPHA / RANK


def parts(
    shape: tuple[int, int], transform: int, kernel: tuple[int, ...] = ()
) -> dict[str, Tensor]:
    m, n = shape
    return {
        "foura_up.weight": random_weight((m, RANK, *kernel), 1),
        "foura_down.weight": random_weight((RANK, n, *kernel), 2),
        "foura_gate": torch.tensor([1.0, 0.25, 0.0, 0.75]),
        "foura_transform": torch.tensor(transform),
        "alpha": torch.tensor(ALPHA),
    }


def read(tensors: dict[str, Tensor]):
    file = parse_adapter_file({f"m.{key}": value for key, value in tensors.items()}, "style")
    (adapter,) = file.adapters
    assert file.unknown == ()
    return adapter


def transform_matrix(transform: int, d: int) -> np.ndarray:
    k, j = np.ogrid[:d, :d]
    if transform == DFT:
        return np.exp(-2j * np.pi * k * j / d) / np.sqrt(d)
    rows = np.cos(np.pi * k * (j + 0.5) / d)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def reference(x: np.ndarray, tensors: dict[str, Tensor]) -> np.ndarray:
    """What is added to the outputs, tokens x m: transform, down, gate, up, inverse transform."""
    up, down = (
        tensors[f"foura_{key}.weight"].double().flatten(1).numpy() for key in ("up", "down")
    )
    transform = int(tensors["foura_transform"])
    z = down @ transform_matrix(transform, down.shape[1]) @ x.T
    gated = tensors["foura_gate"].double().numpy()[:, None] * z
    spectrum = SCALE * up @ gated
    return np.real(np.linalg.inv(transform_matrix(transform, len(up))) @ spectrum).T


def inputs(n: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(50, n))


@pytest.mark.parametrize("transform", [DFT, DCT])
@pytest.mark.parametrize("d", [1, 7, 16])
def test_the_matrices_of_the_reference_are_orthonormal(transform, d):
    matrix = transform_matrix(transform, d)
    np.testing.assert_allclose(matrix @ matrix.conj().T, np.eye(d), atol=1e-12)


@pytest.mark.parametrize("transform", [DFT, DCT])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_the_fold_is_exact(shape, transform, kernel):
    tensors = parts(shape, transform, kernel)
    adapter = read(tensors)
    x = inputs(shape[1])
    want = reference(x, tensors)
    plain = SCALE * (x @ flat(tensors, "down").T) @ flat(tensors, "up").T
    assert relative_error(plain, want) > 0.1  # the factors unfolded are something else
    got = x @ formed(adapter.update(torch.zeros(*shape, *kernel))).T
    assert relative_error(got, want) < 1e-6
    assert adapter.family == "FouRA"
    assert adapter.rank == (RANK if transform == DCT else 2 * RANK)
    assert ("rank 4 by the DFT is a LoRA of 8" in adapter.note) == (transform == DFT)
    assert adapter.delta_shape == shape


def flat(tensors: dict[str, Tensor], key: str) -> np.ndarray:
    return tensors[f"foura_{key}.weight"].double().flatten(1).numpy()


@pytest.mark.parametrize("transform", [DFT, DCT])
def test_the_forward_in_the_documentation(transform):
    code = PAGE.read_text().split("```python\n")[1].split("```")[0]
    page: dict = {}
    exec(code, page)
    tensors = parts((24, 16), transform)
    x = inputs(16)
    up, down = tensors["foura_up.weight"], tensors["foura_down.weight"]
    got = page["foura"](torch.tensor(x).float(), up, down, tensors["foura_gate"], transform, ALPHA)
    assert relative_error(got.numpy(), reference(x, tensors)) < 1e-5


@pytest.mark.parametrize("transform", [DFT, DCT])
def test_without_alpha_and_gate(transform):
    """The scale is 1, and every direction is on."""
    tensors = parts((24, 16), transform)
    bare = {k: v for k, v in tensors.items() if k not in ("alpha", "foura_gate")}
    got = formed(read(bare).update(torch.zeros(24, 16)))
    ones = reference(np.eye(16), {**tensors, "foura_gate": torch.ones(RANK)}).T / SCALE
    gated = reference(np.eye(16), tensors).T / SCALE
    assert relative_error(gated, ones) > 0.1
    assert relative_error(got, ones) < 1e-6


def test_a_wide_layer():
    """The largest width of the models that are out; compared at a few rows, formed one by one."""
    m, n = 10240, 12
    tensors = parts((m, n), DCT)
    adapter = read(tensors)
    update = adapter.update(torch.zeros(m, n))
    rows = np.array([0, 1, 5000, m - 1])
    k = np.arange(m)[:, None]
    inverse = np.sqrt(2 / m) * np.cos(np.pi * k * (2 * rows + 1) / (2 * m))
    inverse[0] = np.sqrt(1 / m)
    gate = tensors["foura_gate"].double().numpy()
    want = SCALE * inverse.T @ flat(tensors, "up") * gate @ flat(tensors, "down")
    want = want @ transform_matrix(DCT, n)
    got = (update.up[rows].double() @ update.down.double()).numpy()
    assert relative_error(got, want) < 1e-6


@pytest.mark.parametrize("transform", [DFT, DCT])
@pytest.mark.parametrize("kernel", [(), (1, 1)])
def test_it_moves_as_a_lora(transform, kernel):
    """On the same weight, the whole job gives a LoRA of the same update, in the keys of one."""
    weight = random_weight((24, 16, *kernel))
    tensors = parts((24, 16), transform, kernel)
    moved, row = move(read(tensors), weight, weight, copy_identical=False)
    assert (row.family, row.status, moved.family) == ("FouRA", "moved", "LoRA")
    assert ("by the DFT" in row.reason) == (transform == DFT)
    written = lora_state_dict([moved])
    assert set(written) == {"m.lora_up.weight", "m.lora_down.weight", "m.alpha"}
    assert written["m.lora_down.weight"].shape == (moved.rank, 16, *kernel)
    got = formed(parse_adapter_file(written, "moved").adapters[0].update(weight))
    assert relative_error(got, reference(np.eye(16), tensors).T) < 1e-5


@pytest.mark.parametrize("transform", [DCT, DFT])
def test_as_it_is_it_is_a_lora_of_the_same_update(transform):
    """In the keys of one, for no loader reads a FouRA."""
    weight, tensors = random_weight((24, 16)), parts((24, 16), transform)
    want = reference(np.eye(16), tensors).T
    projected, _ = move(read(tensors), weight, drifted(weight))
    moved, row = move(read(tensors), weight, drifted(weight), mode="alike")
    assert relative_error(formed(projected.update(weight)), want) > 0.1
    assert relative_error(formed(moved.update(weight)), want) < 1e-5
    assert row.status == "moved"
    assert set(lora_state_dict([moved])) == {"m.lora_up.weight", "m.lora_down.weight", "m.alpha"}


GOOD = parts((24, 16), DCT)
UP, DOWN = GOOD["foura_up.weight"], GOOD["foura_down.weight"]
BROKEN = {
    "no up": ({"foura_up.weight": None}, "is a FouRA without its foura_up"),
    "no down": ({"foura_down.weight": None}, "is a FouRA without its foura_down"),
    "no transform": ({"foura_transform": None}, "is a FouRA without its foura_transform"),
    "a gate alone": (
        {"foura_up.weight": None, "foura_down.weight": None},
        "without its foura_up and foura_down",
    ),
    "ranks": (
        {"foura_down.weight": DOWN[:3]},
        r"\[24, 4\] and down \[3, 16\] that do not multiply",
    ),
    "rank 0": (
        {"foura_up.weight": UP[:, :0], "foura_down.weight": DOWN[:0]},
        "an empty foura_up",
    ),
    "vectors": ({"foura_up.weight": UP[0]}, "do not multiply"),
    "gate": ({"foura_gate": torch.ones(5)}, r"FouRA gate \[5\] for rank 4"),
    "gate per layer": ({"foura_gate": torch.tensor(1.0)}, "has a single number as its foura_gate"),
    "gate NaN": (
        {"foura_gate": torch.full((4,), float("nan"))},
        "foura_gate of the module m, .*NaN",
    ),
    "transform": ({"foura_transform": torch.tensor(2)}, "foura_transform 2, .*neither 0"),
    "transforms": ({"foura_transform": torch.tensor([0, 1])}, r"foura_transform \[0, 1\], "),
    "kernel": (
        {"foura_down.weight": torch.ones(4, 16, 3, 3)},
        r"\[4, 16, 3, 3\]: FouRA is defined for linear layers and 1 x 1",
    ),
    "quantised": ({"foura_up.weight": UP.to(torch.int8)}, "stored as torch.int8"),
    "with a LoRA": ({"lora_up.weight": UP}, "has tensors of FouRA and LoRA"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_modules(kind):
    changes, words = BROKEN[kind]
    tensors = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    with pytest.raises(ProLoRAError, match=rf"^style: .*{words}"):
        read(tensors)
