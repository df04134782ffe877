"""Damaged files of every kind that strangers make: read, or refused in words, and nothing else.

A moment of what `make fuzz` does a million times, with the same files every time.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from prolora.errors import ProLoRAError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it measures by /proc")

if sys.platform.startswith("linux"):
    from tests.fuzz import one_case
    from tests.fuzz.claims import CLAIMS
    from tests.fuzz.mutations import of_bytes
    from tests.fuzz.targets import TARGETS, Target, seeds_of
else:
    CLAIMS = TARGETS = {}

CASES = 400  # of each kind, beside those to begin with
SECONDS = 10.0  # of the processor: what takes 2 on a fast machine takes less on any


@pytest.fixture
def folder() -> Iterator[Path]:
    """In memory, where that is a place."""
    place = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as found, one_case.limits():
        yield Path(found)


def read(kind: str, folder: Path, data: bytes, what: str, kept: Path) -> bool:
    try:
        return one_case.read(TARGETS[kind], folder, data, SECONDS)
    except (Exception, one_case.TooSlow) as error:
        file = kept / "case"
        file.write_bytes(data)
        raise AssertionError(
            f"{what} comes to {type(error).__name__}: {error}. Again: "
            f"python tests/fuzz/campaign.py {kind} --again {file}"
        ) from error


@pytest.mark.parametrize("kind", TARGETS)
def test_damaged_files(kind, folder, tmp_path):
    random, seeds = Random(kind), seeds_of(kind)
    taken = sum(read(kind, folder, data, "a whole file", tmp_path) for data in seeds)
    assert taken >= len(seeds) // 2
    for number in range(CASES):
        data = random.choice(seeds)
        for _ in range(random.choice((1, 1, 2, 4))):
            data = TARGETS[kind].mutate(data, random)
        read(kind, folder, data, f"case {number}", tmp_path)


@pytest.mark.parametrize("kind", CLAIMS)
def test_files_that_claim_more_than_there_is(kind, folder, tmp_path):
    for what, data in CLAIMS[kind].items():
        read(kind, folder, data, what, tmp_path)


def target(read) -> "Target":
    return Target("", 0, list, of_bytes, read)


def test_what_must_not_be_is_seen(folder):
    def slow(folder, data):
        end = time.process_time() + 60
        while time.process_time() < end:
            pass

    def large(folder, data):
        bytearray(200 << 20)

    def endless(folder, data):
        bytearray(1 << 44)

    def wrong(folder, data):
        raise KeyError(data)

    def shown_nowhere(folder, data):
        error = ProLoRAError("")
        error.args = ("\ud800",)
        raise error

    for reads, raised in (
        (slow, one_case.TooSlow),
        (large, one_case.TooMuch),
        (endless, MemoryError),
        (wrong, KeyError),
        (shown_nowhere, UnicodeEncodeError),
    ):
        with pytest.raises(raised):
            one_case.read(target(reads), folder, b"1234", 0.2)
    assert one_case.read(target(lambda folder, data: None), folder, b"1234", 0.2)
