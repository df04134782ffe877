"""Work on many things at once, in threads of this process that do not wait for each other.

The threads that a BLAS library splits one product between meet after every step of it. On a machine
with other work beside, each waits there for the one that was put aside: two `eigh` of 1280 on two
threads took 0.3 s on quiet cores and up to 28 s while one more process ran. So every thread here
has a BLAS of one thread, and works on a thing of its own.
"""

import math
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch

_LOOK = 0.2  # seconds after which a job looks whether it is to stop

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
    inference = torch.is_inference_mode_enabled()  # which holds for a thread

    def run(item: Item) -> Result:
        with torch.inference_mode(inference), torch.no_grad():
            return work(item)

    pool = ThreadPoolExecutor(limits.threads, "prolora", partial(torch.set_num_threads, 1))
    rest, futures = deque(items), dict[Future[Result], Item]()
    try:
        while rest or futures:
            while rest and limits.allow(rest[0], futures.values()):
                item = rest.popleft()
                futures[pool.submit(run, item)] = item
            look(next(iter(futures.values())))
            done, _ = wait(futures, _LOOK, FIRST_COMPLETED)
            for future in tuple(done)[:1]:  # one, so that `look` sees each
                yield futures.pop(future), future.result()
    finally:
        pool.shutdown(cancel_futures=True)


@torch.no_grad()
def _here(
    items: Sequence[Item], work: Callable[[Item], Result], look: Callable[[Item], None]
) -> Iterator[tuple[Item, Result]]:
    for item in items:
        look(item)
        with one_blas_thread():
            result = work(item)
        yield item, result
