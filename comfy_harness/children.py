"""Pruned children of SDXL with made-up weights, and which block of the parent each block is.

What is known of the real ones, and from where:

- How many blocks they have and where: ComfyUI 0.33.0 (the figures in stable_diffusion.py).
- SSD-1B and Vega keep every residual block of the way down and up, and the first one of the middle.
  The script that Segmind published with SSD-1B (distill_sdxl.py, since taken out of its
  repository) trains each residual block and transformer towards the teacher's of the same place,
  and the one that is left of the middle towards the teacher's whole middle.

Assumed:

- KOALA (arXiv 2312.04005) removed residual blocks as BK-SDM does (arXiv 2305.15798; Segmind's code
  for it, distill-sd): the first of two stays on the way down, the first and the last of three on
  the way up. The widths of KOALA's skip connections agree, and leave another choice in three
  places only, between two blocks of the same shapes.
- Which blocks of a transformer were kept. Nothing that was read tells (what SSD-1B's paper, arXiv
  2401.02677, says of it was not at hand), so a caller chooses: the `first`, `spread` ones, or
  `any_of` them, which no rule foresees.
"""

import math
import random
import re
import zlib
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from . import stable_diffusion as sd
from .stable_diffusion import Shape, Shapes, UNet

# For a transformer of so many blocks in the child: the parent's block for each; None for a new one.
# Called with (the transformer's name in the child, blocks in the parent, blocks in the child).
Keep = Callable[[str, int, int], Sequence[int | None]]

_ALL = tuple(range(9))
_IN_TRANSFORMER = re.compile(r"(.+)\.transformer_blocks\.(\d+)\.")


@dataclass(frozen=True)
class Child:
    """A child of SDXL.

    Attributes:
        inventory: its name in inventories/.
        down, up: the parent's entry for each of input_blocks and output_blocks.
    """

    inventory: str
    figures: UNet
    down: tuple[int, ...] = _ALL
    up: tuple[int, ...] = _ALL


SSD_1B = Child("ssd-1b", sd.SSD_1B)
VEGA = Child("vega", sd.VEGA)
KOALA_1B = Child("koala-1b", sd.KOALA_1B, down=(0, 1, 3, 4, 6, 7), up=(0, 2, 3, 5, 6, 8))
KOALA_700M = Child("koala-700m", sd.KOALA_700M, KOALA_1B.down, KOALA_1B.up)
CHILDREN = (SSD_1B, VEGA, KOALA_1B, KOALA_700M)


def first(name: str, parent: int, child: int) -> Sequence[int]:
    return range(child)


def spread(name: str, parent: int, child: int) -> Sequence[int]:
    """From the first to the last, evenly."""
    return [round(i * (parent - 1) / max(child - 1, 1)) for i in range(child)]


def any_of(name: str, parent: int, child: int) -> Sequence[int]:
    """Some, in their order; others in each transformer, the same in every run."""
    return sorted(random.Random(name).sample(range(parent), child))


# Where what came from


def origins(child: Child, keep: Keep, parent: UNet = sd.SDXL) -> dict[str, str]:
    """Each of the child's keys -> the parent's key that it was; "" for those of new blocks."""
    keys = sd.unet(child.figures)
    theirs, ours = _depths(sd.unet(parent)), _depths(keys)
    entries = {"input_blocks": child.down, "output_blocks": child.up}

    def entry(path: str) -> str:
        section, number, *rest = path.split(".")
        place = entries[section][int(number)] if section in entries else number
        return ".".join((section, str(place), *rest))

    found = {}
    for key in keys:
        inside = _IN_TRANSFORMER.match(key)
        if inside is None:
            found[key] = entry(key)
            continue
        transformer, there = inside[1], entry(inside[1])
        kept = keep(transformer, theirs[there], ours[transformer])[int(inside[2])]
        rest = key.removeprefix(inside[0])
        found[key] = "" if kept is None else f"{there}.transformer_blocks.{kept}.{rest}"
    return found


def block_origins(origins: Mapping[str, str]) -> dict[str, str]:
    """Each block of a model -> the block that it was; "" for none. From what `origins` gives.

    A block is what has a number for a name, and two weights or more.
    """
    return {path: _block_origin(path, origins) for path in blocks_of(origins)}


def blocks_of(keys: Iterable[str]) -> list[str]:
    weights: Counter[str] = Counter()
    for key in keys:
        parts = key.split(".")
        if parts[-1] == "weight" and "norm" not in key:
            weights.update(".".join(parts[: i + 1]) for i, p in enumerate(parts) if p.isdigit())
    return [path for path, count in weights.items() if count >= 2]


def _block_origin(path: str, origins: Mapping[str, str]) -> str:
    inside = next(origin for key, origin in origins.items() if key.startswith(f"{path}."))
    return ".".join(inside.split(".")[: path.count(".") + 1])


def reversed_origins(origins: Mapping[str, str], parent: UNet = sd.SDXL) -> dict[str, str]:
    """For the other direction: each of the parent's keys -> the child's; "" for the removed."""
    back = {theirs: ours for ours, theirs in origins.items()}
    return {key: back.get(key, "") for key in sd.unet(parent)}


def unsettled(origins: Mapping[str, str], parent: UNet = sd.SDXL) -> set[str]:
    """The blocks of a child in a list that has another length in the parent, or below one.

    Only these can be paired wrongly: lists of one length are paired by name.
    """
    ours, theirs = _lists(origins), _lists(sd.unet(parent))
    found = set()
    for path, origin in block_origins(origins).items():
        pairs = zip(_lists_around(path), _lists_around(origin), strict=False)
        if not origin or any(len(ours[a]) != len(theirs[b]) for a, b in pairs):
            found.add(path)
    return found


def at_the_same_depth(origins: Mapping[str, str], parent: UNet = sd.SDXL) -> dict[str, str]:
    """What pairing by position would give: for each block the entry as far down the parent's list.

    The first goes to the first and the last to the last; "" where the parent has no such list.
    """
    ours, theirs = _lists(origins), _lists(sd.unet(parent))

    def place(path: str) -> str:
        above, _, name = path.rpartition(".")
        there = place(above) if above else ""
        if not name.isdigit():
            return f"{there}.{name}".strip(".")
        here, entries = sorted(ours[above]), sorted(theirs.get(there, ()))
        if not entries:
            return ""
        share = here.index(int(name)) / max(len(here) - 1, 1)
        return f"{there}.{entries[round(share * (len(entries) - 1))]}"

    return {path: place(path) for path in blocks_of(origins)}


def _lists(keys: Iterable[str]) -> dict[str, set[int]]:
    """Each list in a model -> the numbers of its entries."""
    lists: dict[str, set[int]] = defaultdict(set)
    for key in keys:
        parts = key.split(".")
        for i, part in enumerate(parts):
            if part.isdigit():
                lists[".".join(parts[:i])].add(int(part))
    return dict(lists)


def _lists_around(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:i]) for i, part in enumerate(parts) if part.isdigit()]


def _depths(keys: Iterable[str]) -> dict[str, int]:
    """Transformer -> its blocks."""
    inside = (_IN_TRANSFORMER.match(key) for key in keys)
    return Counter(transformer for transformer, _ in {found.groups() for found in inside if found})


# Weights


# What holds the energy of a weight: directions that all blocks of its stage share, directions of
# its own, and noise. With the exponents below 90 % of the energy lies in 0.35 to 0.61 of all
# directions; in the weights of a trained language model it was 0.40 to 0.69.
_SHARED, _OWN, _NOISE = 0.15, 0.45, 0.40
# How fast singular values fall: i ** -exponent, by the kind of module.
_EXPONENTS = (
    (r"to_[qk]$", 0.6),
    (r"to_v$|to_out", 0.4),
    (r"ff\.", 0.3),
    (r"proj_", 0.5),
    ("", 0.4),
)


class _Readable(Protocol):
    def read(self, key: str) -> torch.Tensor: ...


class _Shaped(ABC):
    """Weights that are made when they are read: nothing is kept."""

    def __init__(self, shapes: Shapes, device: str = "cpu") -> None:
        self._shapes = shapes
        self._device = torch.device(device)

    def __iter__(self) -> Iterator[str]:
        return iter(self._shapes)

    def __contains__(self, key: object) -> bool:
        return key in self._shapes

    def shape(self, key: str) -> Shape:
        return self._shapes[key]

    @abstractmethod
    def read(self, key: str) -> torch.Tensor: ...

    def _random(self, seed: str, *shape: int) -> torch.Tensor:
        """Standard normal numbers, the same for the same words."""
        generator = torch.Generator(self._device).manual_seed(zlib.crc32(seed.encode()))
        return torch.randn(shape, generator=generator, device=self._device)


class MadeUpWeights(_Shaped):
    """Made out of their names.

    Each has a falling spectrum, and shares a part of its leading directions with all weights of its
    name and shape in the other blocks of its stage, as the blocks of a residual network do.
    """

    def read(self, key: str) -> torch.Tensor:
        """In float32, its entries about 1 / sqrt(columns)."""
        shape = self._shapes[key]
        if len(shape) < 2:
            return torch.ones(shape, device=self._device)
        m, n = shape[0], math.prod(shape[1:])
        module = key.removesuffix(".weight")
        exponent = next(e for pattern, e in _EXPONENTS if re.search(pattern, module))
        stage = re.sub(r"(blocks?)\.\d+", r"\1", module)
        weight = math.sqrt(_OWN) * self._falling(key, m, n, min(m, n) // 4, exponent)
        weight += math.sqrt(_SHARED) * self._falling(f"{stage} {m}", m, n, min(m, n) // 8, exponent)
        weight += math.sqrt(_NOISE) * _unit(self._random(f"{key} noise", m, n))
        return (math.sqrt(m) * weight).reshape(shape)

    def _falling(self, seed: str, m: int, n: int, rank: int, exponent: float) -> torch.Tensor:
        rank = max(rank, 1)
        values = torch.arange(1, rank + 1, device=self._device) ** -exponent
        left, right = self._random(f"{seed} left", m, rank), self._random(f"{seed} right", rank, n)
        return _unit((left * values) @ right)


class ChildWeights(_Shaped):
    """A child of a model: the weights that it has of it, each with noise on it.

    Args:
        origins: as the function `origins` gives them; a new block's weights are white noise.
        drift: the noise's size, relative to the weight's.
    """

    def __init__(
        self,
        parent: _Readable,
        shapes: Shapes,
        origins: Mapping[str, str],
        drift: float,
        device: str = "cpu",
    ) -> None:
        super().__init__(shapes, device)
        self._parent, self._origins, self._drift = parent, origins, drift

    def read(self, key: str) -> torch.Tensor:
        shape = self._shapes[key]
        random = self._random(f"{key} in the child", *shape)
        if not self._origins[key]:
            return random / math.sqrt(math.prod(shape[1:]))
        weight = self._parent.read(self._origins[key]).float()
        size = self._drift * float(weight.norm()) / math.sqrt(weight.numel())
        return weight + size * random


def _unit(matrix: torch.Tensor) -> torch.Tensor:
    return matrix / float(matrix.norm())
