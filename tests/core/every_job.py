"""Every job of the core on small models; what it gives as bits, and when it may be cancelled."""

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import cache, partial

import torch

from prolora.algebra.kept import NOTHING_KEPT, Forgetful
from prolora.comparison.figures import compare
from prolora.extraction.extract import extract_difference
from prolora.extraction.settings import ExtractionSettings
from prolora.models.model import Model
from prolora.pairing.alignment import align, compared
from prolora.pairing.block_similarity import RandomizedBlockSimilarity
from prolora.pairing.module_tree import module_tree
from prolora.progress import Progress, silent
from prolora.recording.calibrated import transfer_recorded
from prolora.recording.record import Clean, RecordingSettings, record
from prolora.recording.recording import Recording
from prolora.recording.refine import RefineSettings, refine
from prolora.transfer.job import prepare_job, transfer_jobs, transfer_lora
from prolora.transfer.modes import MODES
from prolora.transfer.resolve import resolve
from prolora.transfer.settings import TransferSettings

from . import running_models as running
from .compared_models import tuned, weights, without_block
from .small_extraction import full_model, tuned_model
from .small_models import file_of, model_of, random_lora

PARENT = weights(5)
CHILD = without_block(tuned(PARENT), 2)  # its blocks are paired by similarity

# Workers, what is told of the progress, what is kept of earlier jobs -> the result.
Job = Callable[[int, Progress, Forgetful], object]


def pair():
    return model_of("A", PARENT), model_of("B", CHILD)


def lora(seed: int = 1):
    shapes = {name: tuple(weight.shape) for name, weight in PARENT.items()}
    return file_of(*(random_lora(name, shape, seed=seed) for name, shape in shapes.items()))


def paired(workers: int, progress: Progress = silent, kept: Forgetful = NOTHING_KEPT) -> object:
    similarity = RandomizedBlockSimilarity(*pair(), torch.device("cpu"), progress, kept=kept)
    trees = tuple(map(module_tree, pair()))
    similarity.prepare(compared(*trees), workers)
    return align(*trees, similarity).blocks


def moved(
    workers: int, progress: Progress = silent, kept: Forgetful = NOTHING_KEPT, mode: str = "full"
) -> object:
    settings = TransferSettings(mode, workers=workers, threshold=0.0)
    return bits_of(transfer_lora(lora(), *pair(), settings, progress, kept))


def moved_two(workers: int, progress: Progress = silent, kept: Forgetful = NOTHING_KEPT) -> object:
    """Two LoRAs at once, as a stack is moved."""
    settings, aligned = TransferSettings(workers=workers, threshold=0.0), {}
    source, target = pair()
    jobs = [
        prepare_job(resolve(lora(seed), source), target, settings, progress, kept, aligned)
        for seed in (1, 2)
    ]
    return bits_of(transfer_jobs(jobs, progress, kept=kept))


def measured(workers: int, progress: Progress = silent, kept: Forgetful = NOTHING_KEPT) -> object:
    return bits_of(compare(*pair(), TransferSettings(workers=workers), progress))


def extracted(workers: int, progress: Progress = silent, kept: Forgetful = NOTHING_KEPT) -> object:
    settings = ExtractionSettings(rank=4, workers=workers)
    return bits_of(extract_difference(full_model("A"), tuned_model(), settings, progress))


# Those that run a model.

FILE = running.lora_file(scale=0.3)


def recorded(workers: int, progress: Progress = silent, kept: Forgetful = NOTHING_KEPT) -> object:
    """By steps of a schedule, which is the longer way."""
    settings = RecordingSettings(levels=2, positions=60, schedule=(1.0, 0.6, 0.0), small_steps=2)
    networks = (
        running.network_of(running.source()),
        running.with_lora(running.source(), FILE.adapters),
    )
    given: Clean = running.clean()
    return bits_of(
        record(
            resolve(FILE, running.model_of(running.source())),
            *networks,
            given,
            [],
            "Small",
            settings,
            progress,
        )
    )


@cache
def _recording() -> Recording:
    return running.recorded(FILE)


def calibrated(workers: int, progress: Progress = silent, kept: Forgetful = NOTHING_KEPT) -> object:
    target = running.drifted()
    return bits_of(
        transfer_recorded(
            resolve(FILE, running.model_of(running.source())),
            running.model_of(target, "B"),
            _recording(),
            running.network_of(target),
            TransferSettings(threshold=0.0, workers=workers),
            progress,
            kept=kept,
        )
    )


def refined(workers: int, progress: Progress = silent, kept: Forgetful = NOTHING_KEPT) -> object:
    target = running.drifted()
    settings = RefineSettings(steps=6, batch=6)
    model, network = running.model_of(target, "B"), running.network_of(target)
    return bits_of(refine(FILE.adapters, model, network, _recording(), settings, progress))


BY_MODE = {
    name: partial(moved, mode=name)
    for name, mode in MODES.items()
    if not mode.needs_recording and name != "auto"
}
JOBS: dict[str, Job] = {
    **{job.__name__: job for job in (paired, moved_two, measured, extracted)},
    **{f"moved by {name}": job for name, job in BY_MODE.items()},
    **{job.__name__: job for job in (recorded, calibrated, refined)},
}


def bits_of(value: object) -> object:
    """All that is in it, tensors by their bytes, so that == tells every bit."""
    if isinstance(value, torch.Tensor):
        return str(value.dtype), tuple(value.shape), value.detach().numpy().tobytes()
    if isinstance(value, Mapping):
        return {key: bits_of(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [bits_of(part) for part in value]
    if isinstance(value, float):
        return repr(value)  # nan is nan
    if isinstance(value, Model):
        return value.name
    if is_dataclass(value):
        return {field.name: bits_of(getattr(value, field.name)) for field in fields(value)}
    return value


class Cancelled(Exception):  # as the host's own is an Exception
    pass


def cancel_at(call: int) -> tuple[Progress, list[tuple[int, int, str]]]:
    """Cancels at the call of that number, from 0 on; and the calls that there were."""
    calls: list[tuple[int, int, str]] = []

    def progress(*told) -> None:
        calls.append(told)
        if len(calls) > call:
            raise Cancelled

    return progress, calls


def calls_of(job: Job, workers: int = 1) -> list[tuple[int, int, str]]:
    """All calls of a whole run."""
    calls: list[tuple[int, int, str]] = []
    job(workers, lambda *told: calls.append(told), NOTHING_KEPT)
    return calls


@contextmanager
def no_tensor_is_left() -> Iterator[None]:
    """Whatever runs inside drops every tensor that it makes."""
    gc.collect()
    gc.freeze()  # what is there already need not be looked through
    try:
        yield
        gc.collect()
        assert not [t.shape for t in gc.get_objects() if issubclass(type(t), torch.Tensor)]
    finally:
        gc.unfreeze()
