"""A list of LoRAs with their strengths, as people and LoRA managers write it."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import PurePosixPath

from ..errors import ProLoRAError
from ..lazy import lazy

# <lora:name:strength:clip strength>, as prompts and LoRA managers have it.
_TAG = re.compile(r"<lora:([^:>]+)(?::([^:>]*))?(?::([^:>]*))?>", re.IGNORECASE)
_COMMENT = "#"
_LONGEST = 255  # letters that a name may have


@dataclass(frozen=True)
class ListedLora:
    """A LoRA of a list, and how strongly it is applied."""

    name: str
    strength_model: float = 1.0
    strength_clip: float = 1.0


@dataclass(frozen=True)
class LoraNames:
    """The names of all LoRA files, relative to their folder, and what people may call each."""

    names: Sequence[str]

    def meant(self, text: str) -> list[str]:
        r"""The files that a text may mean; there may be none.

        It is the file's name, which may lack .safetensors, its folders, or both; folders are
        written with / or \.
        """
        return next((known[_path(text)] for known in self._by_text if _path(text) in known), [])

    def one(self, text: str) -> str:
        """The file that a text means.

        Raises:
            ProLoRAError: there is none, or there are several.
        """
        found = self.meant(text)
        if len(found) == 1:
            return found[0]
        if found:
            raise ProLoRAError(
                f"{text!r} may be each of these LoRAs: {', '.join(found)}. Write its folder too."
            )
        beginning = _path(text)[:_LONGEST]
        near = get_close_matches(beginning, [_bare(name) for name in self.names], 3, 0.5)
        meant = f"Is one of these meant: {', '.join(near)}?" if near else "Is the name right?"
        raise ProLoRAError(f"There is no LoRA {text!r} in the loras folder. {meant}")

    @lazy
    def _by_text(self) -> list[dict[str, list[str]]]:
        """Text -> files, the whole name first."""
        found: list[dict[str, list[str]]] = []
        for spelling in (_path, _stem, _file, _bare):
            found.append({})
            for name in self.names:
                found[-1].setdefault(spelling(name), []).append(name)
        return found


def parse_lora_list(text: str, names: LoraNames) -> list[ListedLora]:
    """The LoRAs of a text, in order, by the names of their files.

    A line is `name`, `name strength` or `name strength clip_strength`, or any number of
    `<lora:name:strength>`. Without a strength it is 1; without one for the text encoder it is the
    model's. Empty lines and lines that begin with # are left out.

    Raises:
        ProLoRAError: a line is none of these, or names no known file or several.
    """
    return [lora for line in _lines(text) for lora in _parsed(line, names)]


def _lines(text: str) -> Iterator[str]:
    for line in map(str.strip, text.splitlines()):
        if line and not line.startswith(_COMMENT):
            yield line


def _parsed(line: str, names: LoraNames) -> Iterator[ListedLora]:
    if "<lora:" in line.lower():
        yield from _tags(line, names)
        return
    readings = list(_readings(line))
    if not readings:
        raise ProLoRAError(f"The line {line!r} names no LoRA. Write a name, then its strength.")
    known = (reading for reading in readings if names.meant(reading[0]))
    name, strengths = next(known, readings[-1])
    yield _listed(names.one(name), strengths)


def _tags(line: str, names: LoraNames) -> Iterator[ListedLora]:
    beside = _TAG.sub("", line).strip(" ,;\t")
    if beside:
        raise ProLoRAError(
            f"Besides <lora:name:strength>, the line {line!r} holds {beside!r}. Take it out."
        )
    for name, *written in _TAG.findall(line):
        texts = [text for text in written if text.strip()]
        strengths = [number for text in texts if (number := _number(text)) is not None]
        if len(strengths) < len(texts):
            raise ProLoRAError(f"A strength in {line!r} is no number. Write one such as 0.8.")
        yield _listed(names.one(name.strip()), strengths)


def _readings(line: str) -> Iterator[tuple[str, list[float]]]:
    """A line as a name and up to two numbers; a name may end with numbers too, so it goes first."""
    words = list(re.finditer(r"[^\s,]+", line))
    for last in range(len(words) - 1, max(len(words) - 4, -1), -1):
        numbers = [n for word in words[last + 1 :] if (n := _number(word[0])) is not None]
        if len(numbers) < len(words) - 1 - last:
            return
        yield line[: words[last].end()], numbers


def _listed(name: str, strengths: Sequence[float]) -> ListedLora:
    of_model = strengths[0] if strengths else 1.0
    return ListedLora(name, of_model, strengths[-1] if strengths else 1.0)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if abs(found) < float("inf") else None


def _path(name: str) -> str:
    return name.replace("\\", "/")


def _stem(name: str) -> str:
    return str(PurePosixPath(_path(name)).with_suffix(""))


def _file(name: str) -> str:
    return PurePosixPath(_path(name)).name


def _bare(name: str) -> str:
    return PurePosixPath(_path(name)).stem
