"""Work on many things at once, in threads of this process that do not wait for each other.

The threads that a BLAS library splits one product between meet after every step of it. On a machine
with other work beside, each waits there for the one that was put aside: two `eigh` of 1280 on two
threads took 0.3 s on quiet cores and up to 28 s while one more process ran. So every thread here
has a BLAS of one thread, and works on a thing of its own.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import torch

from .progress import Progress

_LOOK = 0.2  # seconds after which a job looks whether it is to stop
_ROOM = 3 << 30  # bytes: 30 modules of SDXL's usual 1280 x 1280, or two of Flux's largest

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Limits:
    """How many things may be at work at once.

    Attributes:
        threads: so many.
        room, size_of: and those whose sizes have room together; a single one always may.
    """

    threads: int
    room: float = math.inf
    size_of: Callable[[Any], int] = lambda item: 0

    @classmethod
    def on(
        cls,
        device: torch.device,
        size_of: Callable[[Any], int],
        workers: int = 0,
        memory: int = 0,
    ) -> "Limits":
        """For work on weights: many at once on the cores of the CPU, one on another device.

        Args:
            size_of: the bytes that an item takes while it is at work.
            workers: how many at once; 0 for as many as torch has threads.
            memory: bytes for all of them; 0 for what suits a CPU.
        """
        if device.type != "cpu":
            return cls(1)
        return cls(workers or torch.get_num_threads(), memory or _ROOM, size_of)

    def allow(self, item: object, at_work: Collection[object]) -> bool:
        """Whether one more thing may begin."""
        if len(at_work) >= self.threads:
            return False
        sizes = (self.size_of(thing) for thing in (item, *at_work))
        return not at_work or sum(sizes) <= self.room


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Lets the products of this thread run on one thread, and puts back what was set."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def in_threads(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    look: Callable[[Item], None],
    limits: Limits,
) -> Iterator[tuple[Item, Result]]:
    """Works on all items and gives each with its result, in the order in which they are done.

    When it ends, by whatever, none of its threads is left: after an exception, what has not begun
    is dropped, and what has is waited for.

    Args:
        look: called with the first item that is not done, several times a second; whatever it
            raises stops the work.
        limits: with one thread, there is none but this one.

    Raises:
        Exception: what `work` or `look` raises.
    """
    if limits.threads <= 1:
        yield from _here(items, work, look)
        return
    run = _as_here(work)
    rest, futures = deque(items), dict[Future[Result], Item]()
    with _pool(limits.threads) as pool:
        while rest or futures:
            while rest and limits.allow(rest[0], futures.values()):
                item = rest.popleft()
                futures[pool.submit(run, item)] = item
            look(next(iter(futures.values())))
            done, _ = wait(futures, _LOOK, FIRST_COMPLETED)
            for future in tuple(done)[:1]:  # one, so that `look` sees each
                yield futures.pop(future), future.result()


def all_in_threads(
    items: Sequence[Item],
    work: Callable[[Item], Result],
    limits: Limits,
    progress: Progress,
    name_of: Callable[[Item], str],
) -> list[Result]:
    """The results of all items, in their order; see in_threads.

    Args:
        progress: told how many are done, and the name of the first that is not.
    """
    found: dict[int, Result] = {}
    sizes = replace(limits, size_of=lambda number: limits.size_of(items[number]))

    def look(number: int) -> None:
        progress(len(found), len(items), name_of(items[number]))

    def result(number: int) -> Result:
        return work(items[number])

    for number, done in in_threads(range(len(items)), result, look, sizes):
        found[number] = done
    if items:
        progress(len(items), len(items), "")
    return [found[number] for number in range(len(items))]


def one_ahead(
    items: Iterator[Item], make: Callable[[Item], Result], look: Callable[[], None]
) -> Generator[tuple[Item, Result], None, None]:
    """Gives each item with what is made of it; the next is made while the caller works.

    When it ends, by whatever, its thread is not left.

    Args:
        items: asked for the next as late as can be.
        make: runs in a thread, which has the caller's inference mode and no gradients.
        look: called several times a second while the caller has to wait; whatever it raises stops
            the work.

    Raises:
        Exception: what `make` or `look` raises.
    """
    run = _as_here(make)
    ahead: deque[tuple[Item, Future[Result]]] = deque()

    def begin() -> None:
        for item in islice(items, 1):
            ahead.append((item, pool.submit(run, item)))

    with _pool(1) as pool:
        begin()
        while ahead:
            while not wait([ahead[0][1]], _LOOK).done:
                look()
            item, made = ahead.popleft()
            begin()
            yield item, made.result()
            del item, made  # or they are there until the next is made


def _as_here(work: Callable[[Item], Result]) -> Callable[[Item], Result]:
    """The same for another thread: with the inference mode of this one, and no gradients."""
    inference = torch.is_inference_mode_enabled()  # which holds for a thread

    def run(item: Item) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return work(item)

    return run


@contextmanager
def _pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads that have a BLAS of one thread each, none of which is left in the end.

    With how many a new thread of the process begins is one number for all of them, which these have
    made 1. It is put back.
    """
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(threads, "prolora", partial(torch.set_num_threads, 1))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(before)


@torch.no_grad()
def _here(
    items: Sequence[Item], work: Callable[[Item], Result], look: Callable[[Item], None]
) -> Iterator[tuple[Item, Result]]:
    for item in items:
        look(item)
        with one_blas_thread():
            result = work(item)
        yield item, result
