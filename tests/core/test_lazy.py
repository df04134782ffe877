"""Properties that are computed once, of many objects at the same time."""

from dataclasses import dataclass
from threading import Barrier

from prolora.lazy import lazy
from prolora.threads import Limits, in_threads


@dataclass(frozen=True)
class Squared:
    side: int
    both: Barrier

    @lazy
    def area(self) -> int:
        """Side by side."""
        self.both.wait(30)
        return self.side**2


def test_two_threads_compute_that_of_two_objects_at_once():
    """functools.cached_property would have the one wait for the other, before Python 3.12."""
    both = Barrier(2)
    squares = [Squared(side, both) for side in (2, 3)]
    found = in_threads(squares, lambda square: square.area, lambda square: None, Limits(2))
    assert {square.side: area for square, area in found} == {2: 4, 3: 9}


def test_it_is_computed_once():
    square = Squared(4, Barrier(1))
    assert square.area == 16
    square.both.abort()  # or the next computation raises
    assert square.area == 16
    assert Squared.area.__doc__ == "Side by side."
