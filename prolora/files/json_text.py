"""JSON that somebody else wrote."""

import json
from collections.abc import Callable
from typing import Any


def parse_json(
    text: str | bytes, pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """What a text of JSON says.

    Args:
        pairs_hook: makes an object of its names and values; see json.loads.

    Raises:
        ValueError: it is no JSON, or nested deeper than Python reads.
        Exception: whatever `pairs_hook` raises.
    """
    try:
        return json.loads(text, object_pairs_hook=pairs_hook)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
