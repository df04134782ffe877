"""Cancel in the middle of any job: nothing is left; the next run gives what a whole one does."""

import threading

import pytest

from prolora.algebra.kept import NOTHING_KEPT, Kept
from prolora.progress import silent

from .every_job import JOBS, Cancelled, calls_of, cancel_at, no_tensor_is_left


def cancelled(job, workers: int, call: int, kept) -> None:
    progress, calls = cancel_at(call)
    with pytest.raises(Cancelled):
        job(workers, progress, kept)
    assert len(calls) == call + 1  # it is not called again


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
def test_cancel_at_some_moments(job):
    """What a cancelled run kept of the weights is whole: later runs use it."""
    kept, wanted, threads = Kept(), job(1, silent, NOTHING_KEPT), threading.enumerate()
    last = len(calls_of(job)) - 1
    with no_tensor_is_left():
        for call in sorted({1, last // 2, last - 1}):
            for workers in (1, 2):
                cancelled(job, workers, call, NOTHING_KEPT)
    for call in (last // 3, last - 1):
        cancelled(job, 2, call, kept)
        assert job(2, silent, kept) == wanted
    assert threading.enumerate() == threads
