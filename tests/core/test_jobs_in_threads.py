"""Jobs in threads: the same bits for one and for two, none left behind, what is at work told."""

import threading

import pytest
import torch

from prolora.progress import silent

from .every_job import extracted, measured, moved, paired

JOBS = (paired, moved, measured, extracted)
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
