"""Jobs in threads: the same bits for one and for two, none left behind, what is at work told."""

import threading
from collections.abc import Callable

import pytest
import torch

from prolora.adapters import lora_state_dict
from prolora.comparison.figures import compare
from prolora.extraction.extract import extract_difference
from prolora.extraction.settings import ExtractionSettings
from prolora.pairing.alignment import align, compared
from prolora.pairing.block_similarity import RandomizedBlockSimilarity
from prolora.pairing.module_tree import module_tree
from prolora.progress import Progress, silent
from prolora.transfer.job import transfer_lora
from prolora.transfer.settings import TransferSettings

from .compared_models import tuned, weights, without_block
from .small_extraction import full_model, tuned_model
from .small_models import file_of, model_of, random_lora

PARENT = weights(5)
CHILD = without_block(tuned(PARENT), 2)  # its blocks are paired by similarity


def pair():
    return model_of("A", PARENT), model_of("B", CHILD)


def paired(workers: int, progress: Progress) -> object:
    similarity = RandomizedBlockSimilarity(*pair(), torch.device("cpu"), progress)
    trees = tuple(map(module_tree, pair()))
    similarity.prepare(compared(*trees), workers)
    return align(*trees, similarity).blocks


def moved(workers: int, progress: Progress) -> object:
    settings = TransferSettings(workers=workers, threshold=0.0)
    file = file_of(*(random_lora(name, tuple(weight.shape)) for name, weight in PARENT.items()))
    result = transfer_lora(file, *pair(), settings, progress)
    return as_bits(result.contents), result.report.rows


def measured(workers: int, progress: Progress) -> object:
    return compare(*pair(), TransferSettings(workers=workers), progress)


def extracted(workers: int, progress: Progress) -> object:
    settings = ExtractionSettings(rank=4, workers=workers)
    result = extract_difference(full_model("A"), tuned_model(), settings, progress)
    return as_bits(result.contents), result.report.rows


def as_bits(parts) -> dict[str, bytes]:
    return {key: t.numpy().tobytes() for key, t in lora_state_dict(parts).items()}


JOBS: tuple[Callable[[int, Progress], object], ...] = (paired, moved, measured, extracted)
each_job = pytest.mark.parametrize("job", JOBS)


@each_job
@pytest.mark.parametrize("inference", [False, True])
def test_the_bits_do_not_hang_on_the_number_of_threads(job, inference):
    """Nor on the inference mode that ComfyUI runs nodes under."""
    alone = job(1, silent)
    with torch.inference_mode(inference):
        assert all(job(workers, silent) == alone for workers in (1, 2, 3))


@each_job
def test_it_tells_what_is_at_work(job):
    told = []
    job(2, lambda *call: told.append(call))
    assert {name for done, total, name in told if done < total} - {""}
    assert all(name for done, total, name in told if done < total)
    assert told[-1][0] == told[-1][1] > 0


@each_job
@pytest.mark.parametrize("at", [0, 3, 6])
def test_cancel_leaves_no_thread(job, at):
    before = threading.enumerate()

    def cancel(done: int, total: int, name: str) -> None:
        if done >= at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job(2, cancel)
    assert threading.enumerate() == before


def test_all_weights_that_blocks_are_compared_by_are_read_ahead():
    told = []
    paired(2, lambda *call: told.append(call))
    assert all(total > 1 for _, total, _ in told)  # one by one it would say: of 1
    assert len({name for *_, name in told if name}) > 1
