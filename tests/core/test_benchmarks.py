"""The benchmarks run, on tiny models: what they count and make is right, and so are their tables.

Times are not looked at here.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import batch, memory, operations, peer, spectrum, transfer
from benchmarks.files import NOISE, Library, by_shape, spread
from benchmarks.processes import neighbour
from benchmarks.sign_iterations import leading_projectors
from benchmarks.spectra import SPECTRA, made, spectrum_of
from fixtures.stable_diffusion import SDXL, LoraModule, unet_lora_modules
from prolora.algebra.effective_rank import smallest_rank
from prolora.algebra.leading import leading_subspace
from prolora.algebra.subspace import similarity

WIDTH = 16
ROOT = Path(__file__).parents[2]
FALLING = ("attention", "values", "mlp")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of generated files, once for all tests."""
    return tmp_path_factory.mktemp("benchmarks")


@pytest.fixture
def tables(folder: Path, tmp_path: Path) -> Callable[..., list[list[dict[str, Any]]]]:
    """Runs a benchmark: the rows of each of its tables, by column."""

    def run(main: Callable[[Sequence[str]], None], *options: str) -> list[list[dict[str, Any]]]:
        path = tmp_path / "figures.json"
        main(["--threads", "1", "--width", str(WIDTH), "--json", str(path), *options])
        found = json.loads(path.read_text())["tables"]
        return [[dict(zip(t["columns"], r, strict=True)) for r in t["rows"]] for t in found]

    return run


# What is generated


@pytest.mark.parametrize("name", FALLING)
def test_made_weights_have_the_spectrum(name):
    weight = made((96, 160), name).double()
    values = SPECTRA[name](torch.arange(96, dtype=torch.float64) / 96)
    found = torch.linalg.svdvals(weight)
    assert torch.allclose(found / found[0], values / values[0], atol=1e-6)
    assert weight.square().mean() == pytest.approx(1 / 160, rel=1e-6)


def test_made_weights_are_unrelated():
    one, other = (leading_subspace(made((128, 128), "attention", seed), 0.8) for seed in (0, 1))
    phi = similarity(one, other)
    assert abs(phi.left_corrected) < 0.1 and abs(phi.right_corrected) < 0.1


def test_made_weights_hold_their_energy_as_real_ones_do():
    shares = {
        name: smallest_rank(SPECTRA[name](torch.arange(1280).double() / 1280).square(), 0.8) / 1280
        for name in FALLING
    }
    assert shares == pytest.approx({"attention": 0.2, "values": 0.4, "mlp": 0.5}, abs=0.03)


def test_a_target_is_the_source_with_noise_and_a_child_has_blocks_of_it(folder):
    library = Library(folder, WIDTH)
    key = "model.diffusion_model.input_blocks.4.1.proj_in.weight"
    weights = []
    for path in (library.source(), library.target(), library.target("ssd-1b")):
        with safe_open(path, framework="pt") as file:
            weights.append(file.get_tensor(key).float())
    source, *others = weights
    for weight in others:
        drift = float((weight - source).norm() / source.norm())
        assert drift == pytest.approx(NOISE, rel=0.1)


def test_modules_are_spread_over_all_shapes():
    modules = unet_lora_modules(SDXL)
    chosen = by_shape(spread(modules, 72))
    for shape, alike in by_shape(modules).items():
        assert len(chosen[shape]) == pytest.approx(len(alike) / 10, abs=0.51)
    assert spread(modules, 0) == list(modules)


# What is counted


def test_counted_products_are_those_that_torch_counts():
    module = LoraModule("lora_unet_ff_net_2", 64, 96)
    assert spectrum_of(module.name) == "mlp"
    weight, rank = made((64, 96), "mlp"), 8
    counted = operations.counted([module], rank)
    subspace = leading_subspace(weight, operations.ENERGY)
    k = operations.expected_rank(module)
    assert subspace.rank == k

    def flops(job: Callable[[], object]) -> int:
        with FlopCounterMode(display=False) as counter:
            job()
        return counter.get_total_flops()

    assert counted.similarity == flops(lambda: similarity(subspace, subspace))
    assert counted.longer_side == 2 * flops(lambda: weight.T @ subspace.U)
    assert counted.gram == flops(lambda: weight @ weight.T)  # half of each of two

    def projected(basis: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        y = basis @ (basis.T @ columns)
        return columns - y - basis @ (basis.T @ (columns - 2 * y))

    up, down = torch.randn(64, rank), torch.randn(96, rank)
    assert counted.projection == flops(
        lambda: (projected(subspace.U, up), projected(subspace.V, down))
    )


def test_counted_bytes_are_those_of_the_files(folder):
    library = Library(folder, WIDTH)
    modules = spread(library.modules, 8)
    counted = operations.bytes_counted(modules, 4, loras=2)
    sizes = []
    for path in library.loras(modules, 2, 4):
        with safe_open(path, framework="pt") as file:
            factors = [file.get_tensor(key) for key in file.keys() if "alpha" not in key]
            sizes.append(sum(t.numel() * t.element_size() for t in factors))
    assert counted.loras == sum(sizes)
    assert counted.weights == sum(2 * 2 * m.m * m.n for m in modules)


# Sign iterations


@pytest.mark.parametrize("shape", [(96, 160), (160, 160), (320, 96)])
@pytest.mark.parametrize("name", [*FALLING, "white noise"])
def test_sign_iterations_give_the_projector(shape, name):
    weights = torch.stack([made(shape, name, seed) for seed in range(3)])
    found = leading_projectors(weights, 0.8)
    exact = []
    for weight in weights.double():
        wide = weight if shape[0] <= shape[1] else weight.T
        U, S, _ = torch.linalg.svd(wide, full_matrices=False)
        k = smallest_rank(S.square(), 0.8)
        exact.append((U[:, :k] @ U[:, :k].T, k))
    for P, (theirs, k), rank in zip(found.P.double(), exact, found.ranks, strict=True):
        other = exact[0][0] if theirs is not exact[0][0] else exact[1][0]
        assert float((other - theirs).norm()) > 0.5 * k**0.5  # another weight's is far
        assert rank == k
        assert float((P - theirs).norm()) < 1e-4 * k**0.5


def test_sign_iterations_give_way_where_many_values_are_equal():
    """Then the cut goes through equal ones, and any of them will do."""
    weight = made((320, 320), "repeated")
    found = leading_projectors(weight[None], 0.8)
    P = found.P[0].double()
    held = float((P @ weight.double()).square().sum() / weight.double().square().sum())
    assert found.ranks[0] == round(float(P.trace()))
    assert 0.8 - 1e-6 < held < 0.8 + 2 / 320


# Tables


def test_spectrum_has_a_row_for_each_shape_and_is_exact(tables):
    rows, totals = tables(spectrum.main, "--repeats", "1", "--hard")
    assert len(rows) == len(spectrum.cases(WIDTH)) + len(spectrum.HARD) * len(spectrum.HARD_SHAPES)
    assert sum(row["SDXL has"] or 0 for row in rows) == 722
    assert all(row["ours is off"] <= 1e-5 for row in rows)
    assert {row["method"] for row in totals} == set(spectrum.METHODS)


def test_spectrum_runs_what_is_for_a_gpu(tables):
    options = ("--first", "2", "--batch", "2", "--repeats", "1", "--methods", *spectrum.ON_A_GPU)
    rows, _ = tables(spectrum.main, *options)
    for name in spectrum.ON_A_GPU:
        assert all(row[f"{name} is off"] < 1e-3 for row in rows)


@on_linux
def test_transfer_beside_a_checkout_of_the_same(tables, folder):
    options = ("--cache", str(folder), "--modules", "8", "--before", str(ROOT))
    counted, (row,) = tables(transfer.main, *options)
    assert counted[-1]["TFLOP"] == pytest.approx(sum(step["TFLOP"] for step in counted[:-1]))
    assert row["before / ours"] == row["before"] / row["ours"]
    assert 0 < row["floor"] < row["CPU, ours"]


@on_linux
def test_memory_counts_what_torch_takes(tables, folder):
    ((row,),) = tables(memory.main, "--cache", str(folder), "--modules", "8")
    assert 100 < row["without pages of files"] < row["peak resident"] < 4000


@on_linux
def test_batch_moves_many(tables, folder):
    options = ("--cache", str(folder), "--modules", "8", "--loras", "2")
    ((row,),) = tables(batch.main, *options)
    assert row["LoRAs"] == 2
    assert row["each / one"] == row["a call for each"] / row["one call"]
    assert row["again"] > 0


@on_linux
def test_a_neighbour_ends():
    children = Path("/proc/thread-self/children")
    if not children.exists():
        pytest.skip("this kernel does not list children")
    before = children.read_text()
    with neighbour(busy=True):
        assert children.read_text() != before
    assert children.read_text() == before


# Stands for the code that --casa names: the same name and arguments.
STAND_IN = """
import utils

def cluster_aware_spectral_arbitration(B, A, U_s, S_s, Vh_s, Cfft):
    print("CASA says so")
    return U_s @ (U_s.T @ B), A @ Vh_s.T @ Vh_s
"""


def test_peer_adds_up_its_shapes(tables, folder, tmp_path, capsys):
    casa = tmp_path / "casa"
    casa.mkdir()
    (casa / "transfer.py").write_text(STAND_IN)
    (casa / "utils.py").touch()
    options = ("--cache", str(folder), "--casa", str(casa), "--each", "1", "--loras", "1", "2")
    shapes, totals = tables(peer.main, *options)
    assert "CASA says so" not in capsys.readouterr().out
    assert sum(row["SDXL has"] for row in shapes) == 722
    for row in totals:
        assert row["CASA"] == pytest.approx(row["of it SVDs"] + row["drift"] + row["arbitration"])
    assert totals[1]["arbitration"] == pytest.approx(2 * totals[0]["arbitration"])
