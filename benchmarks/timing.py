"""Jobs that take turns, so that other work on the machine slows all of them alike."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Generic, TypeVar

import torch

from .machine import wait

T = TypeVar("T")


@dataclass(frozen=True)
class Timed(Generic[T]):
    """What a job took, and what it gave.

    Attributes:
        seconds: on the clock; the median of the runs.
        cpu_seconds: of all threads of this process; the median too.
        result: of the last run.
    """

    seconds: float
    cpu_seconds: float
    result: T


def in_turns(
    jobs: Mapping[str, Callable[[], T]], device: torch.device, repeats: int, warm_up: bool = True
) -> dict[str, Timed[T]]:
    """Runs each of the jobs once, then each of them again.

    Args:
        repeats: how often each is timed.
        warm_up: runs each once before, untimed.
    """
    runs: dict[str, list[Timed[T]]] = {name: [] for name in jobs}
    for turn in range(-1 if warm_up else 0, repeats):
        for name, job in jobs.items():
            run = timed(job, device)
            if turn >= 0:
                runs[name].append(run)
            del run
    return {name: _middle(found) for name, found in runs.items()}


def timed(job: Callable[[], T], device: torch.device) -> Timed[T]:
    wait(device)
    start, cpu_start = time.perf_counter(), time.process_time()
    result = job()
    wait(device)
    return Timed(time.perf_counter() - start, time.process_time() - cpu_start, result)


def _middle(runs: list[Timed[T]]) -> Timed[T]:
    seconds, cpu = ([getattr(run, name) for run in runs] for name in ("seconds", "cpu_seconds"))
    return Timed(median(seconds), median(cpu), runs[-1].result)
