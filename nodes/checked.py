"""What a node is given, checked before it works: for all nodes alike.

A host checks what its page can send. More comes here: what a workflow through the API has where a
link belongs; what a host from June 2024 hands on unseen, which checks no optional input; what the
nodes of other packs give that take part in any link, such as nothing at all.
"""

import math
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from ..prolora.errors import ProLoRAError, one_line
from ..prolora.recording.recording import Recording
from ..prolora.transfer.resolve import ResolvedLora
from . import host

_KINDS: Mapping[str, Callable[[Any], bool]] = {
    **host.KINDS,
    "PROLORA_SOURCE": lambda value: isinstance(value, ResolvedLora),
    "PROLORA_RECORDING": lambda value: isinstance(value, Recording),
}
# What a host makes of what is written into the widgets of a type.
_WIDGETS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "INT": (int, "a whole number"),
    "FLOAT": (float, "a number"),
    "STRING": (str, "a text"),
    "BOOLEAN": (bool, "true or false"),
}
_PLAIN = (str, int, float)
# Choices whose own sentences say more than that they are not in the list.
_SAID_LATER = ("mode", "lora_name", "recording_name", "_checkpoint")


def check_inputs(node: type) -> None:
    """Makes a node refuse what is not of the kind and in the range that its INPUT_TYPES say."""
    work = getattr(node, node.FUNCTION)

    @wraps(work)
    def checked(self, **given):
        try:
            return work(self, **_checked(node, given))
        except ProLoRAError as error:
            host.make_showable(error)
            raise

    setattr(node, node.FUNCTION, checked)


def _checked(node: type, given: Mapping[str, Any]) -> dict[str, Any]:
    groups = node.INPUT_TYPES()
    required, optional = groups.get("required", {}), groups.get("optional", {})
    found = {}
    for name, value in given.items():
        declared = required.get(name) or optional.get(name)
        if declared is None:  # hidden: the host gives it
            found[name] = value
        elif not getattr(node, "INPUT_IS_LIST", False):
            if value is not None or name in required:
                found[name] = _value(name, value, *declared)
        elif not value:
            raise ProLoRAError(f"{name} is an empty list. Connect a list with something in it.")
        elif value != [None] or name in required:
            found[name] = [_value(name, one, *declared) for one in value]
    return found


def _value(name: str, value: Any, kind: Any, options: Mapping[str, Any] | None = None) -> Any:
    """The value, as a host would make it of what was written.

    Raises:
        ProLoRAError: it is none of that kind.
    """
    if isinstance(kind, list):
        _check_choice(name, value, kind)
    elif kind in _WIDGETS:
        return _written(name, value, kind, options or {})
    elif kind in _KINDS and not _KINDS[kind](value):
        what = "nothing" if value is None else f"a {type(value).__name__}"
        raise ProLoRAError(
            f"{name} was given {what}, and takes a {kind}. Connect an output of that type; if one "
            "is connected, the node that it comes from gives something else."
        )
    return value


def _check_choice(name: str, value: Any, choices: list[str]) -> None:
    if isinstance(value, str) and (value in choices or name.endswith(_SAID_LATER)):
        return
    raise ProLoRAError(
        f"{name} is {one_line(repr(value))}. Choose one of these: {one_line(', '.join(choices))}."
    )


def _written(name: str, value: Any, kind: str, options: Mapping[str, Any]) -> Any:
    make, what = _WIDGETS[kind]
    least, most = options.get("min", -math.inf), options.get("max", math.inf)
    try:
        found = make(value) if isinstance(value, _PLAIN) else None
        str(found).encode()
    except (ValueError, OverflowError):  # no number, an endless one, or half of a letter
        found = None
    fits = found is not None and (not isinstance(found, float) or math.isfinite(found))
    if fits and (kind in ("STRING", "BOOLEAN") or least <= found <= most):
        return found
    span = f" from {least} to {most}" if "min" in options else ""
    raise ProLoRAError(f"{name} is {one_line(repr(value))}. Choose {what}{span}.")
