"""What is in real models: the name and shape of every weight, without the weights.

One file an architecture in inventories/, read and written here. Made by ComfyUI's own classes from
the figures in the file's head (`make architectures`), and checked against them by a host test. With
runs of equal blocks folded:

    double_blocks.{0-18}.img_attn.qkv.weight: [9216, 3072]
"""

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .stable_diffusion import Shape, Shapes, file_header

_Name = tuple[str, ...]  # a key, split at its dots

FOLDER = Path(__file__).parent / "inventories"
TEXT_ENCODERS = FOLDER / "text_encoders"


@dataclass(frozen=True)
class Inventory:
    """A model's weights, and how its files are laid out.

    Attributes:
        title: the models that have these shapes.
        host_class: ComfyUI's name for the architecture.
        config: the figures that ComfyUI's class is built from.
        prefix: what the diffusion model's keys begin with in the usual file.
        in_file: pattern of what ComfyUI calls otherwise than the usual file -> the file's own.
        text_encoders: what of text_encoders/ the usual file has beside it; "" for none.
        tensors: key -> shape, of the diffusion model as ComfyUI's class has it.
    """

    title: str
    host_class: str
    config: Mapping[str, Any]
    prefix: str = ""
    in_file: tuple[tuple[str, str], ...] = ()
    text_encoders: str = ""
    tensors: Mapping[str, Shape] = field(default_factory=dict)

    @property
    def modules(self) -> Shapes:
        """The linear layers and convolutions of the diffusion model: what LoRAs are made for."""
        return {k: s for k, s in self.tensors.items() if k.endswith(".weight") and len(s) >= 2}

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.tensors.values())

    def file_shapes(self) -> Shapes:
        """Every tensor of the usual file, but those of a VAE."""
        shapes = {self.prefix + self._file_key(key): s for key, s in self.tensors.items()}
        return shapes | (text_encoders(self.text_encoders) if self.text_encoders else {})

    def _file_key(self, key: str) -> str:
        for ours, theirs in self.in_file:
            key = re.sub(ours, theirs, key)
        return key


def names() -> list[str]:
    """Every architecture there is, in the order of a reader's interest: as ORDER in the folder."""
    return (FOLDER / "ORDER").read_text(encoding="utf-8").split()


def inventory(name: str) -> Inventory:
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    content["in_file"] = tuple((ours, theirs) for ours, theirs in content.get("in_file", ()))
    return Inventory(**{**content, "tensors": unfolded(content["tensors"])})


def shapes(name: str) -> Shapes:
    """Every tensor of an architecture's usual file, but those of a VAE."""
    return inventory(name).file_shapes()


def text_encoders(name: str) -> Shapes:
    """The tensors of the text encoders of a whole checkpoint, by their keys there."""
    content = json.loads((TEXT_ENCODERS / f"{name}.json").read_text(encoding="utf-8"))
    return unfolded(content["tensors"])


def write_inventory(name: str, content: Inventory) -> None:
    head = {key: value for key, value in asdict(content).items() if value or key == "tensors"}
    _write(FOLDER / f"{name}.json", head)


def write_text_encoders(name: str, tensors: Mapping[str, Shape]) -> None:
    _write(TEXT_ENCODERS / f"{name}.json", {"tensors": tensors})


def write_header_only(path: Path, tensors: Mapping[str, Shape]) -> None:
    """A safetensors file of such tensors, all zero, which takes no place on the disk."""
    header = file_header(dict(tensors))
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * sum(math.prod(shape) for shape in tensors.values()))


# Folding


def folded(tensors: Mapping[str, Shape]) -> dict[str, list[int]]:
    """The same with `{a-b}` for numbers a to b of one place in a name, where the shapes agree."""
    found = {tuple(key.split(".")): tuple(shape) for key, shape in tensors.items()}
    for place in reversed(range(max(map(len, found), default=0))):
        found = _folded_at(place, found)
    keys = sorted(found, key=lambda key: _natural(".".join(key)))
    return {".".join(key): list(found[key]) for key in keys}


def unfolded(tensors: Mapping[str, Iterable[int]]) -> Shapes:
    """Every name of them, in a natural order."""
    found = {name: tuple(shape) for key, shape in tensors.items() for name in _names_of(key)}
    return {key: found[key] for key in sorted(found, key=_natural)}


def _folded_at(place: int, tensors: Mapping[_Name, Shape]) -> dict[_Name, Shape]:
    alike: dict[tuple[_Name, str, _Name, Shape], list[int]] = defaultdict(list)
    found = {}
    for key, shape in tensors.items():
        number = re.search(r"\d+$", key[place]) if len(key) > place else None
        if number is None:
            found[key] = shape
        else:
            word = key[place][: number.start()]
            alike[key[:place], word, key[place + 1 :], shape].append(int(number[0]))
    for (before, word, after, shape), numbers in alike.items():
        for first, last in _runs(numbers):
            run = str(first) if first == last else f"{{{first}-{last}}}"
            key = (*before, word + run, *after)
            found[key] = shape
    return found


def _runs(numbers: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], number)
        else:
            runs.append((number, number))
    return runs


def _names_of(key: str) -> Iterator[str]:
    run = re.search(r"\{(\d+)-(\d+)\}", key)
    if run is None:
        yield key
        return
    for number in range(int(run[1]), int(run[2]) + 1):
        yield from _names_of(f"{key[: run.start()]}{number}{key[run.end() :]}")


def _natural(key: str) -> list[tuple[str, int]]:
    """Sorts numbers as numbers."""
    return [(word, int(number or 0)) for word, number in re.findall(r"(\D*)(\d*)", key)]


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """JSON with a tensor a line."""
    head = [f"  {json.dumps(k)}: {json.dumps(v)}," for k, v in content.items() if k != "tensors"]
    tensors = folded(content["tensors"])
    rows = [f"    {json.dumps(key)}: {json.dumps(shape)}" for key, shape in tensors.items()]
    text = "\n".join(["{", *head, '  "tensors": {', ",\n".join(rows), "  }", "}", ""])
    path.write_text(text, encoding="utf-8")
