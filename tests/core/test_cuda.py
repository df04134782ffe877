"""The projection on a GPU is the one on the CPU; runs where there is one.

What is in test_backends.py runs on the GPU as well then.
"""

import threading

import numpy as np
import pytest
import torch
from hypothesis import given

from prolora.algebra.devices import sent
from prolora.algebra.leading import leading_subspace
from prolora.algebra.precision import full_float32
from prolora.algebra.single_precision import decompose_single
from prolora.algebra.subspace import similarity
from prolora.algebra.updates import LowRankUpdate
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .dense_reference import dense_subspace
from .small_models import delta, file_of, model_of, random_lora
from .spectra import LIFELIKE, weight
from .strategies import Case, cases, dense, project

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")

GPU = torch.device("cuda")
SHAPE = (640, 1280)
SOURCE = {f"{kind} {i}": weight(SHAPE, kind, i).half() for kind in LIFELIKE for i in range(8)}
TARGET = {
    name: (w.double() + 0.2 * weight(SHAPE, "white noise", 99)).half() for name, w in SOURCE.items()
}
FILE = file_of(*(random_lora(name, SHAPE, 16) for name in SOURCE))


@given(case=cases())
def test_cuda_equals_cpu(case: Case):
    on_cpu, on_gpu = (moved(case, torch.device(name)) for name in ("cpu", "cuda"))
    assert on_gpu[1] == pytest.approx(on_cpu[1], abs=1e-4)
    scale = np.linalg.norm(case.delta)
    assert np.linalg.norm(on_cpu[0] - on_gpu[0]) < 1e-5 * scale


def moved(case: Case, device: torch.device) -> tuple[np.ndarray, float]:
    source, target = (
        leading_subspace(weight.to(device), case.energy) for weight in (case.source, case.target)
    )
    update = LowRankUpdate(case.update.up.to(device), case.update.down.to(device))
    cut = project(update, source, target, "prolora").truncate(update.rank)
    result = LowRankUpdate(cut.factors.up.cpu(), cut.factors.down.cpu())
    return dense(result), similarity(source, target).score


@pytest.mark.parametrize("kind", LIFELIKE)
@pytest.mark.parametrize("shape", [(1280, 1280), (2560, 640)])
@full_float32()
def test_the_contract(kind, shape):
    made = weight(shape, kind, 5).float()
    for energy in (0.5, 0.8, 0.95):
        found = leading_subspace(made.to(GPU), energy)
        exact = dense_subspace(made.numpy(), energy)
        assert found.rank == exact.rank
        for basis, projector in ((found.U, exact.P), (found.V, exact.Q)):
            B = basis.double().cpu().numpy()
            assert np.linalg.norm(B @ B.T - projector) < 1e-5 * exact.rank**0.5


def test_many_at_once_are_as_one_by_one():
    weights = [weight((320, 640), kind, 1).float().to(GPU) for kind in LIFELIKE]
    for alone, found in zip(weights, decompose_single(weights), strict=True):
        one = decompose_single([alone])[0]
        torch.testing.assert_close(found.squared, one.squared, rtol=1e-5, atol=0)


def transferred(device: torch.device, memory: int = 0):
    settings = TransferSettings("full", threshold=0.0, device=device, memory=memory)
    return transfer_lora(FILE, model_of("A", SOURCE), model_of("B", TARGET), settings)


def test_a_transfer_is_that_of_the_cpu():
    ours, theirs = transferred(GPU), transferred(torch.device("cpu"))
    stayed = []
    for mine, yours in zip(ours.adapters, theirs.adapters, strict=True):
        before = delta(next(a for a in FILE.adapters if a.name == mine.name))
        assert not mine.up.is_cuda
        assert np.linalg.norm(delta(mine) - delta(yours)) < 4e-5 * np.linalg.norm(before)
        stayed.append(np.linalg.norm(before - delta(yours)) / np.linalg.norm(before))
    assert np.median(stayed) > 0.05
    for mine, yours in zip(ours.report.rows, theirs.report.rows, strict=True):
        assert mine.measures.common_rank == yours.measures.common_rank
        assert mine.measures.similarity.score == pytest.approx(
            yours.measures.similarity.score, abs=1e-4
        )


def test_memory_stays_under_its_cap_and_is_given_back():
    transferred(GPU)  # what the libraries of CUDA take once
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    cap = 200_000_000
    result = transferred(GPU, cap)
    assert not result.report.notes
    assert torch.cuda.max_memory_allocated() - before < cap
    assert torch.cuda.memory_allocated() == before
    assert not [t for t in threading.enumerate() if t.name.startswith("prolora")]


def test_out_of_memory_is_told_by_its_type():
    """And a job that has too little moves on the CPU what it has no room for."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    taken = torch.cuda.memory_reserved() + 60_000_000
    torch.cuda.set_per_process_memory_fraction(
        taken / torch.cuda.get_device_properties(GPU).total_memory
    )
    try:
        found = transferred(GPU)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert "ran out of memory" in found.report.notes[0]
    assert torch.cuda.memory_allocated() == before
    assert not transferred(GPU).report.notes  # the next has all of it again
    wanted = transferred(torch.device("cpu"))
    for mine, yours in zip(found.adapters, wanted.adapters, strict=True):
        assert np.linalg.norm(delta(mine) - delta(yours)) < 4e-5 * np.linalg.norm(delta(yours))


def test_what_is_sent_arrives():
    tensor = torch.randn(1000, 1000, dtype=torch.float16)
    assert torch.equal(sent(tensor, GPU).cpu(), tensor)
    assert torch.equal(sent(tensor.to(GPU), torch.device("cpu")), tensor)
