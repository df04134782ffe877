"""The alignment against every order-preserving pairing there is."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolora.pairing.monotonic_alignment import monotonic_alignment

GAINS = st.one_of(
    st.integers(-3, 3).map(float),  # ties
    st.floats(-1, 1, allow_nan=False),
)


@st.composite
def matrices(draw):
    rows, columns = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return [[draw(GAINS) for _ in range(columns)] for _ in range(rows)]


def every_pairing(rows, columns):
    for count in range(min(rows, columns) + 1):
        for ours in combinations(range(rows), count):
            for theirs in combinations(range(columns), count):
                yield list(zip(ours, theirs, strict=True))


def total(gains, pairs):
    return sum(gains[i][j] for i, j in pairs)


@given(matrices())
def test_none_gains_more(gains):
    pairs = monotonic_alignment(gains)
    assert pairs in list(every_pairing(len(gains), len(gains[0])))
    best = max(total(gains, other) for other in every_pairing(len(gains), len(gains[0])))
    assert total(gains, pairs) == pytest.approx(best, abs=1e-12)


@given(matrices())
def test_a_pair_has_a_gain(gains):
    assert all(gains[i][j] > 0 for i, j in monotonic_alignment(gains))


def test_the_best_single_pair_is_given_up_for_two():
    gains = [[0.0, 0.9], [1.0, 0.9]]
    assert max(total(gains, [pair]) for pair in [(0, 1), (1, 0), (1, 1)]) == gains[1][0]
    assert monotonic_alignment([[0.9, 0.0], [1.0, 0.9]]) == [(0, 0), (1, 1)]
    assert monotonic_alignment(gains) == [(1, 0)]


@given(matrices(), st.integers(0, 4))
def test_of_a_column_and_its_copy_the_first_is_paired(gains, which):
    j = which % len(gains[0])
    doubled = [[*row[: j + 1], *row[j:]] for row in gains]
    columns = [column for _, column in monotonic_alignment(doubled)]
    assert j + 1 not in columns or j in columns


@pytest.mark.parametrize("gains", [[], [[]], [[], []], [[0.0]], [[-1.0, 0.0]]])
def test_nothing_to_pair(gains):
    assert monotonic_alignment(gains) == []
