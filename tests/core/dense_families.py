"""What must hold for every family whose update becomes a LoRA."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import lycoris
import numpy as np
import pytest
import torch

from prolora.adapters import Adapter, lora_state_dict, parse_adapter_file, read_adapter_file
from prolora.errors import ProLoRAError
from prolora.files.safetensors import write_safetensors

from .dense_reference import dense_pair, dense_project
from .libraries import Net, Written, assert_same_updates, by_lycoris, lycoris_applied
from .libraries import lycoris_updates as merged_by_lycoris
from .small_models import delta, matrix, move
from .strategies import formed, relative_error

# What LyCORIS is asked for, by the family that it then writes.
WRITERS = {
    "LoRA": {"algo": "lora"},
    "LoCon with cores": {"algo": "lora", "use_tucker": True},
    "LoHa": {"algo": "loha"},
    "LoHa with cores": {"algo": "loha", "use_tucker": True},
    "LoKr": {"algo": "lokr", "factor": 4},
    "LoKr of a low rank": {"algo": "lokr", "factor": 2, "linear_dim": 2},
    "GLoRA": {"algo": "glora"},
    "OFT": {"algo": "diag-oft"},
    "DoRA": {"algo": "lora", "dora_wd": True},
    "DoRA over LoKr": {"algo": "lokr", "factor": 4, "dora_wd": True},
    "DoRA over LoHa": {"algo": "loha", "dora_wd": True},
}


def written_by_lycoris(folder: Path, **choices: object) -> Written:
    """With the updates that LyCORIS trains."""
    return by_lycoris(folder, updates_of=lycoris_applied, **choices)


def adapters_of(written: Written) -> Iterator[tuple[Adapter, torch.Tensor, np.ndarray]]:
    """Every adapter of the file, its weight, and its update by the library."""
    adapters = read_adapter_file(written.path).adapters
    assert {adapter.name for adapter in adapters} == set(written.updates)
    for adapter in adapters:
        yield adapter, written.weights[adapter.name], written.updates[adapter.name]


def assert_nothing_is_lost_at_full_rank(written: Written) -> None:
    """Through the projection, for the weight that it was trained on."""
    got, reports = {}, {}
    for adapter, weight, update in adapters_of(written):
        assert adapter.delta_shape == update.shape
        moved, reports[adapter.name] = move(
            adapter, weight, weight, mode="full", rank=min(update.shape), copy_identical=False
        )
        got[adapter.name] = delta(moved)
        assert moved.up.ndim == moved.down.ndim == weight.ndim
    assert_same_updates(got, written.updates)
    assert {row.status for row in reports.values()} == {"moved"}
    assert max(row.energy_dropped for row in reports.values()) < 1e-9


def assert_the_same_weight_gives_it_back(adapter: Adapter, weight: torch.Tensor) -> None:
    """At full rank, through the projection."""
    want = formed(adapter.update(weight))
    assert np.linalg.norm(want) > 1
    rank = min(weight.shape[0], weight[0].numel())
    moved, row = move(adapter, weight, weight, mode="full", rank=rank, copy_identical=False)
    assert row.status == "moved"
    assert relative_error(delta(moved), want) < 1e-5


def assert_moved_as_the_reference(
    adapter: Adapter, update: np.ndarray, source: torch.Tensor, target: torch.Tensor, mode: str
) -> None:
    """At full rank; `update` is what the adapter adds to the source, m x n."""
    pair = dense_pair(matrix(source), matrix(target), 0.8)
    want = dense_project(update, *pair, mode)
    assert relative_error(update, want) > 0.1
    choices = {"mode": mode, "rank": min(update.shape), "subspace_energy": 0.8}
    moved, row = move(adapter, source, target, **choices)
    assert row.status == "moved"
    assert np.linalg.norm(delta(moved) - want) < 1e-5 * np.linalg.norm(update)


def assert_rank_0_keeps_99_percent(written: Written) -> None:
    """With the smallest rank that does; the report says what it drops."""
    ranks = []
    for adapter, weight, update in adapters_of(written):
        moved, row = move(adapter, weight, weight, mode="full", rank=0, copy_identical=False)
        squared = np.linalg.svd(update, compute_uv=False) ** 2
        dropped = 1 - np.cumsum(squared) / squared.sum()
        assert dropped[moved.rank - 1] <= 0.01
        assert moved.rank == 1 or dropped[moved.rank - 2] > 0.01
        assert row.rank_out == moved.rank
        assert row.energy_dropped == pytest.approx(dropped[moved.rank - 1], abs=1e-6)
        ranks.append((moved.rank, min(update.shape)))
    assert any(1 < rank < full for rank, full in ranks)


def assert_lycoris_reads_the_result(folder: Path, written: Written, rank: int) -> None:
    """As a LoRA, whose update is the best one of that rank."""
    moved, best = [], {}
    for adapter, weight, update in adapters_of(written):
        moved.append(move(adapter, weight, weight, rank=rank)[0])
        U, s, Vh = np.linalg.svd(update, full_matrices=False)
        best[adapter.name] = (U[:, :rank] * s[:rank]) @ Vh[:rank]
        assert np.linalg.norm(best[adapter.name] - update) > 0.1 * np.linalg.norm(update)
    path = folder / "moved.safetensors"
    write_safetensors(lora_state_dict(moved), path, {})
    network, _ = lycoris.create_lycoris_from_weights(1, str(path), Net())
    assert_same_updates(merged_by_lycoris(network), best)


def read_module(tensors: Mapping[str, torch.Tensor]) -> Adapter:
    """The one module m of a file with these tensors."""
    (adapter,) = parse_adapter_file({f"m.{key}": t for key, t in tensors.items()}, "a").adapters
    return adapter


def assert_refused(tensors: Mapping[str, torch.Tensor], *words: str) -> None:
    """By a message with the file, the module, and these words in this order."""
    with pytest.raises(ProLoRAError) as error:
        read_module(tensors)
    found = ".*".join(re.escape(word) for word in ("a: the module m ", *words, "xport"))
    assert re.search(found, str(error.value)), str(error.value)
