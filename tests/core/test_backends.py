"""All backends give one result; batches of a GPU, here on the CPU where there is no GPU."""

import gc
import threading
import weakref
from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
import torch

from prolora.algebra.kept import NOTHING_KEPT, Kept
from prolora.errors import ProLoRAError
from prolora.models.model import Model
from prolora.transfer import backends, job
from prolora.transfer.assemble import TransferResult
from prolora.transfer.backends.batches import in_batches
from prolora.transfer.backends.workers import in_workers
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from .dense_reference import DenseSubspace, dense_pair, dense_project, dense_similarity
from .small_models import delta, file_of, matrix, model_of, random_lora
from .spectra import LIFELIKE, weight

# Where there is no GPU, one that the settings can tell from the CPU.
GPU = torch.device("cuda" if torch.cuda.is_available() else "cpu:0")
KINDS = (*LIFELIKE, "clustered", "repeated", "of low rank")
SHAPES = ((264, 300), (300, 264), (40, 24))
SOURCE = {
    f"{kind} {shape[0]}": weight(shape, kind, 1).float() for kind in KINDS for shape in SHAPES
}
TARGET = {
    name: 0.8 * source + 0.2 * weight(tuple(source.shape), "like mlp", 2).float()
    for name, source in SOURCE.items()
}
FILE = file_of(*(random_lora(name, tuple(w.shape)) for name, w in SOURCE.items()))
FEW = dict(list(SOURCE.items())[:6])
FILE_OF_FEW = file_of(*(random_lora(name, tuple(w.shape)) for name, w in FEW.items()))


class Stop(Exception):
    pass


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("prolora")]


@pytest.fixture
def use(monkeypatch):
    """Makes a backend the one of every device."""

    def choose(backend: Callable) -> None:
        for device in ("cpu", "cuda"):
            monkeypatch.setitem(backends.BACKENDS, device, backend)

    return choose


@pytest.fixture
def batched(use):
    use(in_batches)


def moved(
    file=FILE_OF_FEW, source=FEW, target=TARGET, kept=NOTHING_KEPT, **choices
) -> TransferResult:
    settings = TransferSettings(**{"mode": "full", "threshold": 0.0, "device": GPU, **choices})
    target = {name: target[name] for name in source}
    lora = resolve(file, model_of("A", source))
    return job.transfer_resolved(lora, model_of("B", target), settings, kept=kept)


def assert_alike(one: TransferResult, other: TransferResult) -> None:
    """To the contract: the same ranks, Phi to 1e-4, updates to 1e-5."""
    for ours, theirs in zip(one.report.rows, other.report.rows, strict=True):
        a, b = ours.measures, theirs.measures
        assert (ours.name, ours.status) == (theirs.name, theirs.status)
        assert (a.source_rank, a.target_rank) == (b.source_rank, b.target_rank)
        assert a.similarity.left == pytest.approx(b.similarity.left, abs=1e-4)
        assert a.similarity.right == pytest.approx(b.similarity.right, abs=1e-4)
    for ours, theirs in zip(one.adapters, other.adapters, strict=True):
        assert not ours.up.is_cuda
        assert np.linalg.norm(delta(ours) - delta(theirs)) <= 2e-5 * np.linalg.norm(delta(theirs))


@pytest.mark.parametrize("energy", [0.5, 0.8, 0.95])
@pytest.mark.parametrize(
    ("backend", "choices"),
    [
        (in_workers, {}),
        (in_workers, {"workers": 1, "device": torch.device("cpu")}),
        (in_workers, {"workers": 2, "device": torch.device("cpu")}),
        (in_batches, {}),
        (in_batches, {"memory": 40_000_000}),
        (in_batches, {"memory": 1}),
    ],
)
def test_every_backend_keeps_the_contract(use, backend, choices, energy):
    use(backend)
    found = moved(FILE, SOURCE, subspace_energy=energy, **choices)
    rows = {row.name: row for row in found.report.rows}
    stayed = []
    for before, after in zip(FILE.adapters, found.adapters, strict=True):
        exact = dense(before.name, energy)
        measures = rows[before.name].measures
        assert measures.common_rank == exact[0].rank
        phi = measures.similarity
        assert (phi.left, phi.right) == pytest.approx(dense_similarity(*exact), abs=1e-4)
        wanted = dense_project(delta(before), *exact, "full")
        size = np.linalg.norm(delta(before))
        stayed.append(np.linalg.norm(delta(before) - wanted) / size)
        assert np.linalg.norm(delta(after) - wanted) < 4e-5 * size
    assert np.median(stayed) > 0.05


@cache
def dense(name: str, energy: float) -> tuple[DenseSubspace, DenseSubspace]:
    return dense_pair(matrix(SOURCE[name]), matrix(TARGET[name]), energy)


def eighs(monkeypatch, fault: Callable[[int, int], None] = lambda count, call: None) -> list[int]:
    """How many matrices each call of eigh is given, filled while it runs.

    Args:
        fault: may raise, from how many there are and the calls before.
    """
    counts: list[int] = []
    plain = torch.linalg.eigh

    def counted(matrices, *arguments, **more):
        if matrices.dim() == 3:
            counts.append(len(matrices))
            fault(len(matrices), len(counts) - 1)
        return plain(matrices, *arguments, **more)

    monkeypatch.setattr(torch.linalg, "eigh", counted)
    return counts


def test_a_batch_is_decomposed_in_one_call(monkeypatch, batched):
    counts = eighs(monkeypatch)
    moved(FILE, SOURCE)
    assert counts == [2 * len(KINDS) * 2]  # two weights, of either orientation


def test_a_batch_is_no_larger_than_there_is_room_for(monkeypatch, batched):
    counts = eighs(monkeypatch)
    few = moved(FILE, SOURCE, memory=40_000_000)
    assert 2 < max(counts) < 4 * len(KINDS)
    assert_alike(few, moved(FILE, SOURCE))
    counts.clear()
    moved(FILE, SOURCE, memory=1)
    assert set(counts) == {2}


def no_memory(most: int, error: Exception) -> Callable[[int, int], None]:
    def fault(count: int, call: int) -> None:
        if count > most:
            raise error

    return fault


ERRORS = (
    torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate`"),
)


@pytest.mark.parametrize("error", ERRORS, ids=str)
def test_out_of_memory_halves_the_batch(monkeypatch, batched, error):
    wanted = moved()
    counts = eighs(monkeypatch, no_memory(4, error))
    found = moved()
    assert_alike(found, wanted)
    assert counts == [8, 4, 4]
    assert found.report.notes == (
        f"The device {GPU} ran out of memory: fewer modules at a time were moved.",
    )
    assert found.report.rows == wanted.report.rows


def test_those_after_it_are_as_small(monkeypatch, batched):
    counts = eighs(monkeypatch, no_memory(4, ERRORS[0]))
    room = 60_000_000
    moved(FILE, SOURCE, memory=room)
    assert max(counts) > 8
    first = next(i for i, count in enumerate(counts) if count <= 4)
    assert len([count for count in counts[first:] if count > 4]) <= 1  # it had been read by then


def test_a_single_task_without_room_goes_to_the_cpu(monkeypatch, batched):
    wanted = moved()
    seen = []

    def fault(count: int, call: int) -> None:
        if len(seen) < 3:
            seen.append(count)
            raise ERRORS[0]

    eighs(monkeypatch, fault)
    found = moved()
    assert seen == [8, 4, 2]
    assert_alike(found, wanted)
    assert "1 went to the CPU" in found.report.notes[0]


def test_the_cpu_without_memory_is_an_error(monkeypatch, batched):
    eighs(monkeypatch, no_memory(0, ERRORS[0]))
    with pytest.raises(torch.cuda.OutOfMemoryError):
        moved()


def test_no_memory_to_read_ahead(monkeypatch, batched):
    wanted = moved()
    plain, calls = Model.weight, []

    def reading(self, *arguments):
        calls.append(threading.current_thread() is threading.main_thread())
        if len(calls) == 2:
            raise ERRORS[0]
        return plain(self, *arguments)

    monkeypatch.setattr(Model, "weight", reading)
    assert_alike(moved(), wanted)
    assert True in calls  # what was not read ahead


@pytest.mark.parametrize("error", [RuntimeError("CUDA error: an illegal memory access"), Stop()])
def test_another_error_is_an_error(monkeypatch, batched, error):
    counts = eighs(monkeypatch, no_memory(0, error))
    with pytest.raises(type(error)):
        moved()
    assert len(counts) == 1


def test_a_weight_that_cannot_be_read(batched):
    broken = {name: w.clone() for name, w in TARGET.items()}
    broken[list(FEW)[-1]][0] = torch.nan
    with pytest.raises(ProLoRAError, match="NaN"):
        moved(target=broken)


def test_the_next_batch_is_read_while_one_is_decomposed(monkeypatch, batched):
    plain, read = Model.weight, []
    of_next = threading.Event()

    def reading(self, *arguments):
        read.append(arguments[0])
        if len(read) > 4:  # the first batch is two tasks
            of_next.set()
        return plain(self, *arguments)

    monkeypatch.setattr(Model, "weight", reading)
    eighs(monkeypatch, lambda count, call: assert_set(of_next))
    moved(memory=12_000_000)
    assert len(read) == 2 * len(FEW)  # each once


def assert_set(event: threading.Event) -> None:
    assert event.wait(30)


@pytest.mark.parametrize("backend", [in_workers, in_batches])
@pytest.mark.parametrize("moment", range(0, 7, 2))
def test_cancel_leaves_nothing(monkeypatch, use, backend, moment):
    use(backend)
    plain, alive, calls = Model.weight, [], []

    def reading(self, *arguments):
        found = plain(self, *arguments).clone()
        alive.append(weakref.ref(found))
        return found

    def progress(done: int, total: int, name: str) -> None:
        calls.append(done)
        if len(calls) > moment:
            raise Stop

    monkeypatch.setattr(Model, "weight", reading)
    settings = TransferSettings("full", threshold=0.0, device=GPU, memory=12_000_000, workers=2)
    lora = resolve(FILE_OF_FEW, model_of("A", FEW))
    target = model_of("B", {name: TARGET[name] for name in FEW})
    gc.disable()  # nothing waits for it to be found
    try:
        with pytest.raises(Stop):
            job.transfer_resolved(lora, target, settings, progress)
        assert not [tensor for tensor in alive if tensor() is not None]
    finally:
        gc.enable()
    assert len(calls) == moment + 1


@pytest.mark.parametrize("backend", [in_workers, in_batches])
def test_no_weight_is_left_after_a_job(monkeypatch, use, backend):
    use(backend)
    plain, alive = Model.weight, []

    def reading(self, *arguments):
        found = plain(self, *arguments).clone()
        alive.append(weakref.ref(found))
        return found

    monkeypatch.setattr(Model, "weight", reading)
    gc.disable()
    try:
        result = moved(memory=12_000_000, workers=2)
        assert not [tensor for tensor in alive if tensor() is not None]
    finally:
        gc.enable()
    assert len(alive) == 2 * len(FEW)
    assert len(result.adapters) == len(FEW)


def test_where_results_have_no_room_no_thread_is_left(use):
    """Such as a full disk; the fixture looks for threads while the error is held."""
    use(in_workers)

    def hold(tensor: torch.Tensor) -> torch.Tensor:
        raise Stop

    settings = TransferSettings(threshold=0.0, workers=2)
    lora = resolve(FILE_OF_FEW, model_of("A", FEW))
    made = job.prepare_job(lora, model_of("B", {n: TARGET[n] for n in FEW}), settings)
    with pytest.raises(Stop) as found:
        job.transfer_jobs([made], hold=hold)
    assert not [t for t in threading.enumerate() if t.name.startswith("prolora")]
    assert found.tb is not None


def test_nothing_is_decomposed_that_is_kept_or_identical(monkeypatch, batched):
    counts = eighs(monkeypatch)
    kept, names = Kept(), list(FEW)
    same = {**TARGET, names[0]: SOURCE[names[0]]}
    first = {name: FEW[name] for name in names[:3]}
    part = file_of(*FILE_OF_FEW.adapters[:3])
    moved(part, first, target=same, kept=kept)
    assert sum(counts) == 2  # the first is identical, and the third is small
    moved(target=same, kept=kept)
    assert sum(counts) == 2 + 4
    other = file_of(*(random_lora(name, tuple(w.shape), seed=5) for name, w in FEW.items()))
    found = moved(other, target=same, kept=kept)
    assert sum(counts) == 2 + 4
    afresh = moved(other, target=same)
    for ours, theirs in zip(found.adapters, afresh.adapters, strict=True):
        assert torch.equal(ours.up, theirs.up)


@pytest.mark.parametrize("backend", [in_workers, in_batches])
def test_inference_mode_changes_nothing(use, backend):
    """ComfyUI runs nodes in it."""
    use(backend)
    wanted = moved(workers=2)
    with torch.inference_mode():
        found = moved(workers=2)
    assert_alike(found, wanted)


def test_progress_comes_before_each_task_and_at_the_end(batched):
    seen = []
    settings = TransferSettings("full", threshold=0.0, device=GPU)
    lora = resolve(FILE_OF_FEW, model_of("A", FEW))
    target = model_of("B", {name: TARGET[name] for name in FEW})
    job.transfer_resolved(lora, target, settings, lambda *said: seen.append(said))
    running = [said for said in seen if said[1] == len(FEW)]
    counts = [done for done, _, _ in running]
    assert counts == sorted(counts)
    assert set(counts) == set(range(len(FEW) + 1))
    assert {name for _, _, name in running} == {*FEW, ""}
    assert running[-1] == (len(FEW), len(FEW), "")
