"""Pairs of blocks that a user gives, as JSON; a report has them in the same form.

    {"pairs": {"blocks.2": "blocks.3", "blocks.5": null}}

The target's block 2 takes what the LoRA has for the source's block 3; its block 5 takes nothing.
Everything else is found as usual. A path may also name a single module. The file may be a whole
report, of which only `pairs` is read.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ProLoRAError, truncated_list
from ..files.json_text import parse_json
from ..files.texts import read_text
from ..models.module_names import is_text_encoder
from .module_tree import Node

_LONGEST = 1000  # letters of a path


def read_pairs(path: Path) -> dict[str, str | None]:
    """Reads a file of pairs: the path of a target module -> the path of the source's, or None.

    Raises:
        ProLoRAError: the file cannot be read, or its content is not as parse_pairs wants it.
    """
    return parse_pairs(read_text(path), path.name)


def parse_pairs(text: str, name: str = "the pairs") -> dict[str, str | None]:
    """Reads pairs from JSON; an empty text has none.

    Args:
        text: JSON in the form above.
        name: what messages call it.

    Raises:
        ProLoRAError: the text is not JSON, or not in the form above.
    """
    if not text.strip():
        return {}
    try:
        content = parse_json(text, _once)
    except ProLoRAError as error:
        raise ProLoRAError(f"{name}: {error}") from None
    except ValueError as error:
        raise ProLoRAError(f"{name}: this is no JSON ({error}). {_FORM}") from error
    pairs = content.get("pairs", content) if isinstance(content, dict) else None
    if not isinstance(pairs, dict):
        raise ProLoRAError(f"{name}: there are no pairs in it. {_FORM}")
    for target, source in pairs.items():
        if not _is_path(target) or not (source is None or _is_path(source)):
            raise ProLoRAError(f"{name}: {target!r}: {source!r} is not a pair. {_FORM}")
    return pairs


def _is_path(found: object) -> bool:
    return isinstance(found, str) and 0 < len(found) <= _LONGEST


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuses a name that is there twice, of which JSON would keep the last."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ProLoRAError(f"{name} is in it twice. Keep one of them. {_FORM}")
        found[name] = value
    return found


def write_pairs(pairs: Mapping[str, str | None]) -> str:
    """Writes pairs in the form that parse_pairs reads."""
    return json.dumps({"pairs": dict(pairs)}, indent=1) + "\n"


# How the text encoders' paths begin in a checkpoint and in a folder of diffusers.
_TEXT_ENCODERS = ("cond_stage_model.", "conditioner.", "text_encoder")

_FORM = (
    'Write {"pairs": {"target block": "source block"}}, with null for a block that takes nothing; '
    "the pairs of ProLoRA Similarity and the command line's report have all pairs in this form."
)


def check_pairs(pairs: Mapping[str, str | None], source: Node, target: Node) -> None:
    """Refuses pairs of modules that do not exist or have no module in common.

    A pair that names a module of a text encoder passes where the model comes without one.

    Args:
        pairs: the path of a target module -> the path of the source's, or None.
        source, target: the module trees of the two models.

    Raises:
        ProLoRAError: a pair must be refused.
    """
    for target_path, source_path in pairs.items():
        for path, root, side in ((target_path, target, "target"), (source_path, source, "source")):
            if path is not None and root.at(path) is None and not _in_absent_encoder(path, root):
                raise ProLoRAError(
                    f"The pairs name {path}, which the {side} does not have. {_known(path, root)}"
                )
        _check_in_common(target.at(target_path), source.at(source_path) if source_path else None)


def _in_absent_encoder(path: str, root: Node) -> bool:
    """Whether a path lies in a text encoder that the model comes without (a graph with no CLIP).

    Such modules are left out and reported, whatever the pairs say.
    """
    first = path.partition(".")[0]
    lies_there = path.startswith(_TEXT_ENCODERS) or is_text_encoder(path)
    return lies_there and first not in root.children


def _check_in_common(target: Node | None, source: Node | None) -> None:
    if target is None or source is None or target.inside() & source.inside():
        return
    raise ProLoRAError(
        f"The pairs give {source.path} for {target.path}, which have no module in common. "
        "Give it a block of its kind."
    )


def _known(path: str, root: Node) -> str:
    """What exists where a path leads to nothing, for the message."""
    parts = path.split(".")
    for length in range(len(parts) - 1, -1, -1):
        node = root.at(".".join(parts[:length])) if length else root
        if node is not None and node.path and not node.children:
            return f"{node.path} is a single module: leave out what comes after it."
        if node is not None:
            place = f"In {node.path}" if node.path else "There"
            return f"{place} are: {', '.join(truncated_list(list(node.children), 8))}."
    return ""
