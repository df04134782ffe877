"""Cancel at every call of every job of the core: the next run is as if nothing had been."""

import os
import threading

import pytest

from prolora.algebra.kept import NOTHING_KEPT, Kept
from prolora.progress import silent
from tests.core.every_job import JOBS, Cancelled, calls_of, cancel_at, no_tensor_is_left

from .held import held_by


def test_cancel_at_every_call(times, tell):
    """With one thread, with which a job calls the same each time; and with two."""
    tried, threads, files = 0, threading.enumerate(), held_by(os.getpid()).files
    for job in JOBS.values():
        wanted, calls = job(1, silent, NOTHING_KEPT), len(calls_of(job))
        for call in range(0, calls - 1, max(calls // times(calls), 1)):
            for workers in (1, 2):
                kept = Kept()  # what a cancelled run keeps is used by the next
                with no_tensor_is_left(), pytest.raises(Cancelled):
                    job(workers, cancel_at(call)[0], NOTHING_KEPT)
                with pytest.raises(Cancelled):
                    job(workers, cancel_at(call)[0], kept)
                assert job(workers, silent, kept) == wanted
                tried += 1
    assert threading.enumerate() == threads
    assert held_by(os.getpid()).files == files
    found = f"{len(JOBS)} jobs: the next run has the same bits, no thread, file or tensor is left"
    tell("memory", "Cancel at every call of every job of the core", tried, found)
