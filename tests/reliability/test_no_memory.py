"""No memory at operations all over a job: the job ends with that error, and leaves nothing."""

from itertools import cycle

import pytest

from prolora.algebra.kept import NOTHING_KEPT
from prolora.progress import silent
from tests.core.every_job import JOBS, no_tensor_is_left
from tests.core.faults import NO_MEMORY, FaultAt, operations_of

OPERATIONS = 100  # of each job


def test_no_memory_anywhere(times, tell):
    tried, kinds = 0, cycle(NO_MEMORY)
    for job in JOBS.values():
        wanted = job(1, silent, NOTHING_KEPT)
        count, parts = (
            operations_of(lambda job=job: job(1, silent, NOTHING_KEPT)),
            times(OPERATIONS),
        )
        for part in range(parts):
            kind = next(kinds)
            with no_tensor_is_left():
                number, error = count * part // parts, NO_MEMORY[kind]
                with pytest.raises(type(error)), FaultAt(number, error):
                    job(1, silent, NOTHING_KEPT)
                error.__traceback__ = None  # which holds what was at work
            tried += 1
        assert job(1, silent, NOTHING_KEPT) == wanted
    found = f"{len(JOBS)} jobs: each ends with the error, leaves no tensor, and runs again the same"
    tell("memory", "No memory at operations of torch all over every job of the core", tried, found)
