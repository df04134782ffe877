"""What a file holds for one module, and the same under another name."""

from dataclasses import replace
from typing import Any

from .adapter import Adapter
from .difference import Difference
from .dora import DoraAdapter

Part = Adapter | Difference


def called(part: Part, name: str) -> Any:
    """The same adapter or difference for a module of another name."""
    if isinstance(part, DoraAdapter):
        return replace(part, direction=called(part.direction, name))
    return part if part.name == name else replace(part, name=name)  # type: ignore[type-var]
