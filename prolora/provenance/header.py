"""What a LoRA file's header says of the LoRA and of the checkpoint that it was trained on.

All of it is a stranger's text: it is read as far as it is what it should be, and shown on one line
each, cut. Where it stands:

| who writes | of the base | of the LoRA |
| --- | --- | --- |
| kohya's sd-scripts (train_network.py, 48d368f), LyCORIS | `ss_sd_model_name`, a file's name or \
a repository's; `ss_sd_model_hash`, `ss_new_sd_model_hash`; `ss_base_model_version` | \
`ss_output_name`, `ss_tag_frequency` |
| musubi-tuner (trainer_base.py, 30c658c) | the same without hashes | the same |
| ai-toolkit (toolkit/metadata.py, 27a03a9) | `ss_base_model`, `ss_base_model_version` | `name`, \
the trigger word in `ss_tag_frequency` |
| OneTrainer (TrainConfig.py, 23df383) | `base_model_name` in `ot_config` | `modelspec.*` |
| SimpleTuner (save_hooks.py, bc8e6ab) | `modelspec.architecture` | `trained_words` |
| PEFT, diffusers | `base_model_name_or_path` in its configuration | |
| Stability's ModelSpec 1.0.1 (fe8dc60) | `modelspec.architecture` | `modelspec.title`, `.author`, \
`.license`, `.trigger_phrase`, `.usage_hint`, `.tags`, `.merged_from` |
| ProLoRA | `prolora_target`, what it was moved to | |
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import one_line
from ..files.json_text import parse_json
from .families import Family, family_said
from .hashes import OF_NOTHING

_MOST_TAGS = 8
_SHOWN_DIGITS = 10  # of a hash, as most tools show it
_EXTENSION = re.compile(r"\.(safetensors|sft|ckpt|pt|pth|bin|gguf)$", re.IGNORECASE)
_PRECISION = re.compile(
    r"[-_. ]((fp|bf|f)(32|16)|(mx|nv)?fp[48]|e4m3(fn)?|e5m2|(mixed|scaled|int[48])|"
    r"q[2-8]_[k01](_[sml])?|pruned|emaonly|ema|full)(?=[-_. ]|$)"
)
_PEFT_CONFIG = re.compile(r"\w*lora_adapter_metadata")
_PEFT_BASE = "base_model_name_or_path"


@dataclass(frozen=True)
class Base:
    """What a header says of the checkpoint; "" for what it does not say.

    Attributes:
        name: of the file or of its repository.
        old_hash: 8 digits, see hashes.py.
        sha256: 10 to 64 digits of it.
        version: ss_base_model_version.
        architecture: modelspec.architecture.
        moved: whether ProLoRA moved the LoRA there.
    """

    name: str = ""
    old_hash: str = ""
    sha256: str = ""
    version: str = ""
    architecture: str = ""
    moved: bool = False

    @property
    def hash(self) -> str:
        """The better of its hashes, as it is shown."""
        return (self.sha256 or self.old_hash)[:_SHOWN_DIGITS]

    @property
    def families(self) -> Iterator[tuple[str, Family]]:
        """Each value that names a family that is known here."""
        for value in (self.version, self.architecture):
            family = family_said(value)
            if family is not None:
                yield value, family

    def __str__(self) -> str:
        """What it is called: "NAME (hash 31e35c80fc)"."""
        if self.name and self.hash:
            return f"{one_line(self.name)} (hash {self.hash})"
        return one_line(self.name) if self.name else f"a checkpoint of hash {self.hash}"

    def __bool__(self) -> bool:
        """Whether it names one."""
        return bool(self.name or self.hash)


def base_said(metadata: Mapping[str, str], config: Mapping[str, Any] | None = None) -> Base:
    """What a LoRA's header, or PEFT's configuration beside it, says of its checkpoint."""
    named = _text(metadata.get("ss_sd_model_name")) or _text(metadata.get("ss_base_model"))
    moved_to = _text(metadata.get("prolora_target")).rpartition(" (")[0]
    hashes = [_digits(metadata.get(key)) for key in ("ss_new_sd_model_hash", "ss_sd_model_hash")]
    return Base(
        name=named or moved_to or _name_in_config(metadata, config or {}),
        old_hash=next((h for h in hashes if len(h) == 8 and h != OF_NOTHING), ""),
        sha256=next((h for h in hashes if len(h) >= _SHOWN_DIGITS), ""),
        version=_text(metadata.get("ss_base_model_version")),
        architecture=_text(metadata.get("modelspec.architecture")),
        moved=bool(moved_to),
    )


def describe_header(
    metadata: Mapping[str, str], config: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """What it says, in a few lines for people; none for a header that says nothing."""
    base = base_said(metadata, config)
    versions = ", ".join(
        f"{what} {one_line(value)}"
        for what, value in (
            ("base model version", base.version),
            ("architecture", base.architecture),
        )
        if value
    )
    if base:
        done = "moved to" if base.moved else "trained on"
        yield f"says that it was {done} {base}" + (f", {versions}" if versions else "")
    elif versions:
        yield f"says of its base: {versions}"
    found = [(what, one_line(text)) for what, text in _texts(metadata) if text]
    yield from (f"{what}: {text}" for what, text in found)


def stem_of(name: str) -> str:
    """A file's name without folders, extension and case."""
    last = re.split(r"[/\\]", name.strip().rstrip("/\\"))[-1]
    return _EXTENSION.sub("", last).casefold()


def is_file_name(name: str) -> bool:
    """False for a repository or a folder, whose files have other names."""
    return _EXTENSION.search(name) is not None


def same_model_name(one: str, other: str) -> bool:
    """Whether two names are one model's, in whatever precision: model_fp16, Model.safetensors."""
    return bool(one and other) and _bare(one) == _bare(other)


def _bare(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", _PRECISION.sub("", stem_of(name))) or stem_of(name)


def _texts(metadata: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """What is for people, in the order of its use. A thumbnail is never shown."""
    said = {key: _text(metadata.get(key)) for key in metadata}

    def first(*keys: str) -> str:
        return next((said[key] for key in keys if said.get(key)), "")

    yield "title", first("modelspec.title", "ss_output_name", "name")
    yield "author", first("modelspec.author")
    yield "trigger words", first("modelspec.trigger_phrase", "trained_words")
    yield "hint", first("modelspec.usage_hint")
    yield "most frequent tags", _tags(metadata.get("ss_tag_frequency", ""))
    yield "tags", first("modelspec.tags")
    yield "licence", first("modelspec.license")
    yield "merged from", first("modelspec.merged_from")


def _tags(text: str) -> str:
    """The most frequent ones of ss_tag_frequency: folder -> tag -> how often, as JSON."""
    counts: Counter[str] = Counter()
    tables = [table for table in _object(text).values() if isinstance(table, dict)]
    for table in tables:
        for tag, count in table.items():
            if isinstance(count, int) and 0 < count < 10**9 and tag.strip():
                counts[tag.strip()] += count
    return ", ".join(tag for tag, _ in counts.most_common(_MOST_TAGS))


def _name_in_config(metadata: Mapping[str, str], config: Mapping[str, Any]) -> str:
    """What OneTrainer's, diffusers' or PEFT's configuration calls the base."""
    found = [config.get(_PEFT_BASE), _object(metadata.get("ot_config", "")).get("base_model_name")]
    for key, value in metadata.items():
        if _PEFT_CONFIG.fullmatch(key):
            table = _object(value)
            found += [table[field] for field in table if field.endswith(_PEFT_BASE)]
    return next((text for text in map(_text, found) if text), "")


def _object(text: str) -> dict[str, Any]:
    """What a stranger's JSON holds; nothing where it is none."""
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(value: object) -> str:
    """A text that says something: Python's None is written as a word by some."""
    text = value.strip() if isinstance(value, str) else ""
    return "" if text in ("None", "null") else text


def _digits(value: object) -> str:
    """A hash in lower case; "" where there is none, as in kohya's NOFILE and IsADirectory."""
    text = _text(value).lower().removeprefix("0x")
    return text if re.fullmatch(r"[0-9a-f]{8}|[0-9a-f]{10,64}", text) else ""
