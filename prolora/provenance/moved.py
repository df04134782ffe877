"""What a moved LoRA's file says: all that the original's said, but for what is no longer true.

Of training all stays: its resolution, pictures, tags, words, and what `ot_config` and the like say
of it. What tells the base, or is of the tensors, becomes the target's and the result's, or goes
where that is not known; what it was stays under `prolora_source_` and its key. Nothing is added
that the original did not say, but the `prolora_` keys. Those of a file that was moved before stay
too: `prolora_source` of its first move is `prolora_move_1_source`, and so on.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from ..models.model import Model
from .families import Family, family_of, family_said
from .header import is_file_name

KEPT = "prolora_source_"  # and a key of the original: what it said
OURS = "prolora_"
_EARLIER = re.compile(r"prolora_move_(\d+)_")

# Of the tensors, or of the base's file: written.py computes those it can when it writes.
DATA_HASH, LEGACY_HASH = "sshs_model_hash", "sshs_legacy_hash"
MODELSPEC_HASH = "modelspec.hash_sha256"
OLD_BASE_HASH, BASE_HASH = "ss_sd_model_hash", "ss_new_sd_model_hash"
# Those, other hashes of the tensors, and PEFT's configuration, which its readers take the ranks
# and scales from.
_GONE = re.compile(
    rf"sshs_\w+|modelspec\.hash_\w+|{OLD_BASE_HASH}|{BASE_HASH}|\w*lora_adapter_metadata"
)
_NAMES = ("ss_sd_model_name", "ss_base_model")
_VERSION, _ARCHITECTURE, _IS_SD2 = "ss_base_model_version", "modelspec.architecture", "ss_v2"
_MODULE, _MODULE_ARGUMENTS = "ss_network_module", "ss_network_args"


@dataclass(frozen=True)
class Move:
    """What a header has to know of a move.

    Attributes:
        before, after: the families of adapters in the original and in the result.
    """

    source: Model
    target: Model
    before: Collection[str]
    after: Collection[str]


def moved_header(
    original: Mapping[str, str], move: Move, ours: Mapping[str, str]
) -> dict[str, str]:
    """The header of a moved LoRA, but for what is computed when it is written (see written.py).

    Args:
        original: of the file that was moved.
        ours: the `prolora_` keys of this move.
    """
    said = {key: value for key, value in original.items() if not key.startswith(OURS)}
    now: dict[str, str | None] = {**said, **dict(_now(said, move))}
    return {
        **{key: value for key, value in now.items() if value is not None},
        **{f"{KEPT}{key}": value for key, value in said.items() if now[key] != value},
        **_earlier_moves(original),
        **ours,
    }


def _now(said: Mapping[str, str], move: Move) -> Iterator[tuple[str, str | None]]:
    """What is to be said for a key of the original, where it is another; None for nothing."""
    target = move.target
    is_named = target.path is not None or is_file_name(target.name)
    family, was = family_of(target.architecture), family_of(move.source.architecture)
    crosses = family is not was or target.architecture != move.source.architecture
    for key, value in said.items():
        if _GONE.fullmatch(key):
            yield key, None
        elif key in _NAMES:
            yield key, target.name if is_named else None
        elif key == _VERSION and not _still(value, family, was, crosses):
            yield key, None if family is None else family.version
        elif key == _ARCHITECTURE and not _still(value, family, was, crosses):
            # It must be there, and unique to what has to be loaded in one way.
            base = target.architecture.replace(" ", "-") if family is None else family.modelspec
            yield key, f"{base}/{value.partition('/')[2] or 'lora'}"
        elif key == _IS_SD2 and family is not was:
            yield key, str(family is not None and family.name == "SD2.x")
        elif key == _MODULE and not set(move.after) <= set(move.before):
            yield key, "networks.lora" if set(move.after) == {"LoRA"} else None
        elif key == _MODULE_ARGUMENTS and not set(move.after) <= set(move.before):
            yield key, None


def _still(value: str, family: Family | None, was: Family | None, crosses: bool) -> bool:
    """Whether what was said of the base's architecture is true of the target's."""
    said = family_said(value)
    if said is not None and family is not None:
        return said is family
    return not crosses or (family is was and family is not None)


def _earlier_moves(original: Mapping[str, str]) -> dict[str, str]:
    ours = {key: value for key, value in original.items() if key.startswith(OURS)}
    numbers = {key: _EARLIER.match(key) for key in ours}
    last = max((int(found[1]) for found in numbers.values() if found), default=0)
    return {
        key if numbers[key] else f"prolora_move_{last + 1}_{key.removeprefix(OURS)}": value
        for key, value in ours.items()
    }
