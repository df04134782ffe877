"""Patterns of module names fit as PEFT fits them, and none takes for ever."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prolora.adapters.patterns import fits, ways_of

PARTS = ["blocks", "attn", "to_q", "0", "11", "mlp-1"]
PIECES = [
    *PARTS,
    ".",
    r"\.",
    ".*",
    ".+?",
    r"\d+",
    "[0-3]",
    "(to_q|mlp)",
    "(attn)?",
    "^",
    "$",
    "x|y",
]


@given(st.lists(st.sampled_from(PIECES), max_size=5), st.lists(st.sampled_from(PARTS), max_size=4))
def test_as_peft_fits_them(pieces, parts):
    """PEFT's get_pattern_key: re.match of the pattern behind `(.*\\.)?` and before `$`."""
    pattern, name = "".join(pieces), ".".join(parts)
    ways = ways_of(pattern)
    if pattern and ways.count * (len(name) + 1) ** ways.repeated <= 10**6:
        assert fits(pattern, name) == (re.match(rf"(.*\.)?({pattern})$", name) is not None)


ENDLESS = [
    *("(a+)+$", "(a|aa)*b", "([ab]+){9,}", "(?:a*)*", "((a+)b)+", "a?" * 25 + "a" * 25),
    *("(a|a)" * 25 + "b", ".*" * 9 + "b", "(.*)*" * 2, "[]a]*" * 9, r"(\w+\s?)+$"),
]


@pytest.mark.parametrize("pattern", ENDLESS)
def test_one_that_takes_for_ever(pattern):
    with pytest.raises(ValueError, match="may take for ever"):
        fits(pattern, "a" * 60 + "!")


@pytest.mark.parametrize(
    "pattern", ["(", "a)(b", "a{99999999999}", "(?P<x", "*", "(" * 999, "x" * 1001 + "*"]
)
def test_one_that_is_none(pattern):
    with pytest.raises(ValueError, match=r"\w"):
        fits(pattern, "a")
    assert pattern not in ("", "a")


def test_what_the_ways_are_for():
    """As many as Python would try: twice the choices, twice the time."""
    assert ways_of("attn.to_q").count == 1
    assert ways_of(r".*\.(to_q|to_k|to_v)").repeated == 1
    assert ways_of(r".*\.(to_q|to_k|to_v)").count == 3
    assert ways_of("(a|b)(c|d|e)").count == 6
    assert ways_of(r"[a*+|(]\*\(").count == 1


@given(st.text("ab.-", min_size=1, max_size=4), st.text("ab.-", max_size=6))
def test_what_looks_like_the_name_of_a_module_is_a_pattern_as_well(plain, name):
    """Its dots stand for any letter: `conv.` is conv1 and conv2."""
    assert fits(plain, name) == (re.match(rf"(.*\.)?({plain})$", name) is not None)


def test_names_of_modules():
    assert fits("attn.to_q", "blocks.0.attn.to_q")
    assert not fits("attn.to_q", "blocks.0.xattn.to_q")
    assert fits("conv.", "conv1") and not fits("conv.", "conv")
