"""How far a job is, in words that the page and the terminal share."""

import pytest

from prolora import progress
from prolora.progress import Pace, duration


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "1 s"),
        (0.4, "1 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (89, "1 min"),
        (3570, "1 h 0 min"),
        (7800, "2 h 10 min"),
    ],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def told(pace: Pace, done: int, total: int) -> str:
    pace.begins(done, total)
    return str(pace)


def test_a_job_of_two_parts(clock):
    pace = Pace("module")
    assert told(pace, 0, 10) == "0 of 10 modules"
    clock[0] += 2
    assert told(pace, 1, 10) == "1 of 10 modules"  # too early to tell
    clock[0] += 2
    assert told(pace, 2, 10) == "2 of 10 modules, 16 s left"
    clock[0] += 6  # while the third is at work
    assert told(pace, 2, 10) == "2 of 10 modules, 40 s left"
    assert told(pace, 10, 10) == "10 of 10 modules"
    clock[0] += 50
    assert told(pace, 0, 10) == "0 of 10 modules"  # the second part has a time of its own
    clock[0] += 4
    assert told(pace, 2, 10) == "2 of 10 modules, 16 s left"


def test_a_single_piece(clock):
    pace = Pace()
    assert told(pace, 0, 1) == ""
    clock[0] += 60
    assert told(pace, 0, 1) == told(pace, 1, 1) == ""
