"""Which of many files is the checkpoint that a LoRA's header names."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..progress import Progress, silent
from .hashes import file_sha256, old_style_hash
from .header import Base, same_model_name, stem_of


@dataclass(frozen=True)
class Found:
    """A file by its name, and whether that name alone speaks for it."""

    name: str
    is_guess: bool


def find_base(
    base: Base,
    files: Mapping[str, Path],
    progress: Progress = silent,
) -> Found | None:
    """The file that the header names; None where there is none.

    With an old style hash 64 kB of every file are read. A whole file is read for its sha256 only
    if its name or its old style hash is right, and not if both are: to read fifty checkpoints
    would take half an hour.

    Args:
        files: name -> path, in the order of preference.

    Raises:
        ProLoRAError: a file cannot be read.
        Exception: whatever `progress` raises.
    """
    names = sorted(files, key=lambda name: _unlike(base.name, name))
    alike = of_name = [name for name in names if same_model_name(base.name, name)]
    if base.old_hash:
        alike = [name for name in names if old_style_hash(files[name]) == base.old_hash]
        if alike and (alike[0] in of_name or not base.sha256):
            return Found(alike[0], is_guess=alike[0] not in of_name and len(alike) > 1)
    if base.sha256:
        for name in alike:
            if file_sha256(files[name], progress).startswith(base.sha256):
                return Found(name, is_guess=False)
    return Found(of_name[0], is_guess=True) if of_name else None


def _unlike(name: str, other: str) -> int:
    if stem_of(name) == stem_of(other):
        return 0
    return 1 if same_model_name(name, other) else 2
