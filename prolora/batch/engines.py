"""Who moves the chunks: this process, or the workers of a Ray cluster."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..errors import ProLoRAError
from ..progress import Progress
from .chunk import Run, move_chunk
from .manifest import Row
from .table import Outcome, failed

Chunks = Sequence[Sequence[Row]]
# Chunks, how, `moving`, `writing` -> the outcomes of one chunk after the other, as they are done.
Engine = Callable[[Chunks, Run, Progress, Progress], Iterator[list[Outcome]]]

_RETRIES = 3  # of a chunk whose worker died
_PATIENCE = 20.0  # seconds for workers to stop when the job is cancelled


def here(chunks: Chunks, run: Run, moving: Progress, writing: Progress) -> Iterator[list[Outcome]]:
    """One chunk after the other, in this process."""
    for chunk in chunks:
        yield move_chunk(chunk, run, moving, writing)


def over_ray(
    chunks: Chunks, run: Run, moving: Progress, writing: Progress
) -> Iterator[list[Outcome]]:
    """A Ray task for each chunk, on the cluster that RAY_ADDRESS names, or on this machine.

    Ray gives a chunk whose worker died to another one, where the rows that are written count as
    done. One that kills worker after worker is given out row by row. All workers see the same
    files, and have this package.

    Args:
        run: with workers 0, the chunks share the cores that there are.

    Raises:
        ProLoRAError: Ray is not installed, or there is no cluster where one is named.
    """
    ray = _ray()
    started = not ray.is_initialized()
    if started:
        _start(ray)
    waiting: dict[Any, Sequence[Row]] = {}
    try:
        cores = int(ray.cluster_resources().get("CPU", 1))
        run = replace(run, workers=run.workers or max(1, cores // max(len(chunks), 1)))
        task = ray.remote(move_chunk).options(
            name="move_chunk",
            num_cpus=run.workers,
            num_gpus=int(run.device.type == "cuda"),
            max_retries=_RETRIES,
        )
        waiting |= {task.remote(chunk, run): chunk for chunk in chunks}
        while waiting:
            (first,), _ = ray.wait(list(waiting), num_returns=1)
            chunk = waiting.pop(first)
            try:
                yield ray.get(first)
            except ray.exceptions.RayError as error:
                if len(chunk) == 1:
                    yield [failed(chunk[0], f"Ray gave it up: {error}")]
                waiting |= {task.remote([row], run): [row] for row in chunk if len(chunk) > 1}
    finally:
        for reference in waiting:
            ray.cancel(reference)
        if waiting:
            ray.wait(list(waiting), num_returns=len(waiting), timeout=_PATIENCE)
        if started:
            ray.shutdown()


def _ray() -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it tells its makers otherwise
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ProLoRAError(
            "--engine ray needs Ray, which is not installed: pip install ray"
        ) from error
    return ray


def _start(ray: Any) -> None:
    try:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ProLoRAError(f"Ray could not be started: {error}.") from error


ENGINES: dict[str, Engine] = {"here": here, "ray": over_ray}
