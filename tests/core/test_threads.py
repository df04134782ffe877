"""Work in threads: every item once, nothing left behind, and no thread that waits for another."""

import threading
import time

import pytest
import torch

from prolora.threads import Limits, in_threads, one_blas_thread

ITEMS = tuple(range(20))
COUNTS = (1, 2, 5)


class Stop(Exception):
    pass


def ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("prolora")}


def square(item: int) -> int:
    return item * item


def nothing(item: int) -> None:
    """Looks at nothing."""


@pytest.fixture(autouse=True)
def no_thread_is_left():
    yield
    assert not ours()


@pytest.mark.parametrize("threads", COUNTS)
def test_every_item_has_its_result(threads):
    found = dict(in_threads(ITEMS, square, nothing, Limits(threads)))
    assert found == {item: item * item for item in ITEMS}


@pytest.mark.parametrize("threads", COUNTS)
def test_nothing_to_do(threads):
    assert list(in_threads((), square, nothing, Limits(threads))) == []


def test_they_work_at_the_same_time():
    both = threading.Barrier(2, timeout=30)
    found = in_threads((0, 1), lambda item: both.wait() >= 0, nothing, Limits(2))
    assert dict(found) == {0: True, 1: True}


@pytest.mark.parametrize("threads", COUNTS)
def test_no_more_at_once_than_there_is_room_for(threads):
    at_work, most, lock = [], [], threading.Lock()

    def work(item: int) -> None:
        with lock:
            at_work.append(item)
            most.append(sum(at_work))
        time.sleep(0.002)
        with lock:
            at_work.remove(item)

    sizes = (3, 1, 1, 1, 4, 9, 2, 2, 1)
    limits = Limits(threads, room=4, size_of=lambda item: item)
    assert [item for item, _ in sorted(in_threads(sizes, work, nothing, limits))] == sorted(sizes)
    assert max(total for total in most if total != 9) <= 4
    assert max(most) == 9  # alone


@pytest.mark.parametrize("threads", COUNTS)
@pytest.mark.parametrize("at", [0, 3, 19])
def test_an_error_stops_the_rest(threads, at):
    begun = []

    def work(item: int) -> None:
        begun.append(item)
        if item == at:
            raise Stop
        time.sleep(0.01)

    with pytest.raises(Stop):
        list(in_threads(ITEMS, work, nothing, Limits(threads)))
    assert len(begun) <= at + 2 * threads


@pytest.mark.parametrize("threads", COUNTS)
def test_the_one_who_looks_stops_the_rest(threads):
    begun, looked = [], []

    def look(item: int) -> None:
        looked.append(item)
        if len(looked) == 3:
            raise Stop

    with pytest.raises(Stop):
        list(in_threads(ITEMS, begun.append, look, Limits(threads)))
    assert len(looked) == 3
    assert len(begun) <= 2 + threads


def test_it_looks_while_an_item_takes_long():
    looked = []

    def look(item: int) -> None:
        looked.append(item)
        if len(looked) > 3:
            go_on.set()

    go_on = threading.Event()
    found = in_threads(ITEMS[:2], lambda item: go_on.wait(30), look, Limits(2))
    assert dict(found) == {0: True, 1: True}


@pytest.mark.parametrize("threads", COUNTS)
def test_the_one_who_asks_may_go(threads):
    found = in_threads(ITEMS, square, nothing, Limits(threads))
    next(found)
    found.close()
    assert not ours()


@pytest.mark.parametrize("threads", COUNTS)
@pytest.mark.parametrize("inference", [False, True])
def test_products_have_one_thread_and_the_caller_his_own(threads, inference):
    """And no gradients; inference mode as the caller has it, which ComfyUI runs nodes under."""

    def state(item: int) -> tuple[int, bool, bool]:
        return torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with torch.inference_mode(inference):
            found = dict(in_threads(ITEMS, state, nothing, Limits(threads)))
        assert set(found.values()) == {(1, False, inference)}
        assert torch.get_num_threads() == 3
        with pytest.raises(Stop), one_blas_thread():
            assert torch.get_num_threads() == 1
            raise Stop
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_threads_that_others_begin_later_have_what_they_had():
    def count() -> int:
        found = []
        thread = threading.Thread(target=lambda: found.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        return found[0]

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert count() == 3
        assert dict(in_threads(ITEMS, lambda item: torch.get_num_threads(), nothing, Limits(2)))
        assert count() == 3
    finally:
        torch.set_num_threads(before)
