"""Whether a LoRA's header contradicts the source that was chosen, or names the target instead.

A hash decides where there is one. Reading a checkpoint of 7 GB takes from ten seconds to a minute,
so the old style hash, of 64 kB, is asked first, and the sha256 only where that leaves it open:

| name | old style | what is done |
| --- | --- | --- |
| same | same | it is the one |
| same | other | re-saved, pruned or another version: a note |
| other | other | it is another: a warning |
| other | same | two files may share it by chance: the sha256 decides, where the header has it |
| any | none in the header | the sha256 decides, where the header has it; else the name |
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ..errors import one_line
from ..models.model import Model
from ..progress import Progress, silent
from .families import family_of
from .hashes import file_sha256, old_style_hash
from .header import Base, base_said, is_file_name, same_model_name


@dataclass(frozen=True)
class Doubt:
    """What speaks against a source or a target, for people.

    Attributes:
        is_warning: whether what is moved is wrong if it is so.
    """

    text: str
    is_warning: bool = False

    def __str__(self) -> str:
        return f"WARNING: {self.text}" if self.is_warning else self.text


class Verdict(Enum):
    """Whether a model is the one that a header names."""

    SAME = "the same"
    CHANGED = "another content under the same name"
    OTHER = "another"
    UNKNOWN = "not known"


_AT_HOME = (Verdict.SAME, Verdict.CHANGED)


@dataclass(frozen=True)
class Candidate:
    """A model that may be the one.

    Attributes:
        name: of its file, or whatever it is called in reports.
        path: of its file; None where it is not known.
    """

    name: str
    path: Path | None = None

    @property
    def is_named(self) -> bool:
        """False for a MODEL of a graph whose file is not known."""
        return self.path is not None or is_file_name(self.name)


def verdict(base: Base, model: Candidate, progress: Progress = silent) -> Verdict:
    """Whether a model is the one that a header names; see the table above.

    A repository is not compared with a file but by its name: its files may be called otherwise.

    Raises:
        ProLoRAError: its file cannot be read.
        Exception: whatever `progress` raises.
    """
    same_name = bool(base.name) and same_model_name(base.name, model.name)
    same_hash = None
    if model.path is not None and model.path.is_file():
        same_hash = _same_hash(base, model.path, same_name, progress)
    if same_hash is None:
        if same_name:
            return Verdict.SAME
        known = is_file_name(base.name) and model.is_named
        return Verdict.OTHER if known else Verdict.UNKNOWN
    if same_hash:
        return Verdict.SAME
    return Verdict.CHANGED if same_name else Verdict.OTHER


def _same_hash(base: Base, path: Path, same_name: bool, progress: Progress) -> bool | None:
    """None where there is no hash to compare."""
    if base.old_hash:
        same = old_style_hash(path) == base.old_hash
        if not same or same_name or not base.sha256:
            return same
    if base.sha256:
        return file_sha256(path, progress).startswith(base.sha256)
    return None


def doubts_of_source(
    metadata: Mapping[str, str],
    config: Mapping[str, Any],
    source: Model,
    progress: Progress = silent,
) -> Iterator[Doubt]:
    """What speaks against a source, naming both; nothing where all agrees.

    Args:
        metadata, config: of the LoRA, see base_said.

    Raises:
        ProLoRAError: the source's file cannot be read.
        Exception: whatever `progress` raises.
    """
    base = base_said(metadata, config)
    found = verdict(base, Candidate(source.name, source.path), progress)
    chosen, done = one_line(source.name), "moved to" if base.moved else "trained on"
    if found is Verdict.OTHER:
        yield Doubt(
            f"the LoRA says that it was {done} {base}, and the source is {chosen}"
            f"{_hash_beside(base, source)}. If that is another model, what is moved is wrong: "
            "choose the one that the LoRA names.",
            is_warning=True,
        )
    elif found is Verdict.CHANGED:
        yield Doubt(
            f"the LoRA says that it was {done} {base}; {chosen} has another hash"
            f"{_hash_beside(base, source)}: it was re-saved or pruned, which is fine, or it is "
            "another version."
        )
    detected = family_of(source.architecture)
    for value, family in base.families:
        if detected is not None and detected is not family:
            yield Doubt(
                f"the LoRA says that it was {done} a model of {family.name} "
                f"({one_line(value)}), and the source {chosen} is of {detected.name}.",
                is_warning=True,
            )
            return


def doubts_of_target(
    metadata: Mapping[str, str],
    config: Mapping[str, Any],
    source: Model,
    target: Model,
    progress: Progress = silent,
) -> Iterator[Doubt]:
    """Says so where the header names the target and not the source: they may be swapped.

    Raises:
        ProLoRAError: a file cannot be read.
        Exception: whatever `progress` raises.
    """
    base = base_said(metadata, config)
    if verdict(base, Candidate(source.name, source.path), progress) in _AT_HOME:
        return
    if verdict(base, Candidate(target.name, target.path), progress) is Verdict.SAME:
        done = "moved to" if base.moved else "trained on"
        yield Doubt(
            f"the LoRA says that it was {done} {base}, which is the target itself "
            f"({one_line(target.name)}): was source and target swapped?",
            is_warning=True,
        )


def _hash_beside(base: Base, source: Model) -> str:
    """The source's own hash in words, where it was compared by one that is quick to read."""
    if not base.old_hash or source.path is None or not source.path.is_file():
        return ""
    return f" (old style hash {old_style_hash(source.path)}, not {base.old_hash})"
