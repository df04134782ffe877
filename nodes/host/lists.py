"""Inputs as lists, for a node that takes all of a list at once (INPUT_IS_LIST)."""

from collections.abc import Mapping, Sequence
from typing import Any


def zipped(lists: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The inputs of the calls that the host makes of a node that takes one value each.

    There are as many as the longest list has values; a shorter list goes on with its last one.
    """
    calls = max(map(len, lists.values()))
    return [
        {name: values[min(number, len(values) - 1)] for name, values in lists.items()}
        for number in range(calls)
    ]
