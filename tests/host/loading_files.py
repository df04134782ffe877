"""Files of every class that ComfyUI knows, and of models as diffusers saves them; hardly any data.

host_classes.json has a row for each of ComfyUI's classes:

- like: another class, whose figures it has too.
- figures: from which a small model is built that ComfyUI detects as this class.
- beside: other tensors that its checkpoint has; their shapes.
- metadata: figures of its transformer that its file's header gives.
- prefix: what the keys of the diffusion model begin with.
- fused: parts of a module's name -> the name of what its file has in one instead.

diffusers_files/ has the names and shapes of diffusers' own classes, at its commit 58eb52c.
"""

import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fixtures.inventory import unfolded
from fixtures.stable_diffusion import Shape, Shapes, file_header

_HERE = Path(__file__).parent
_ROWS = json.loads((_HERE / "host_classes.json").read_text(encoding="utf-8"))
CLASSES = tuple(_ROWS)
DIFFUSERS = tuple(sorted(path.stem for path in (_HERE / "diffusers_files").glob("*.json")))
_DEFAULTS = {"beside": {}, "metadata": {}, "prefix": "model.diffusion_model.", "fused": {}}


def class_row(name: str) -> dict[str, Any]:
    row = _DEFAULTS | _ROWS[name] | {"figures": _figures(name)}
    if row["metadata"]:
        row["metadata"] = {"config": json.dumps({"transformer": row["metadata"]})}
    return row


def _figures(name: str) -> dict[str, Any]:
    inherited = _figures(_ROWS[name]["like"]) if "like" in _ROWS[name] else {}
    return inherited | _ROWS[name].get("figures", {})


def class_file(row: Mapping[str, Any], unet: Mapping[str, list[int]]) -> Shapes:
    """The tensors of a class's file, from those that ComfyUI's class has."""
    shapes = {key: tuple(shape) for key, shape in unet.items()}
    for whole, parts in row["fused"].items():
        shapes = _fused(shapes, whole, parts)
    shapes = {row["prefix"] + key: shape for key, shape in shapes.items()}
    return shapes | {key: tuple(shape) for key, shape in row["beside"].items()}


def _fused(shapes: Shapes, whole: str, parts: list[str]) -> Shapes:
    found = dict(shapes)
    for key in shapes:
        keys = [key.replace(parts[0], part) for part in parts]
        if parts[0] in key and len({shapes.get(part) for part in keys}) == 1:
            rows, *columns = shapes[key]
            found[key.replace(parts[0], whole)] = (len(parts) * rows, *columns)
            for part in keys:
                del found[part]
    return found


def diffusers_model(name: str) -> dict[str, Any]:
    content = json.loads((_HERE / "diffusers_files" / f"{name}.json").read_text(encoding="utf-8"))
    return content | {"tensors": unfolded(content["tensors"])}


def first_blocks(tensors: Shapes) -> Shapes:
    """Without any but the first block of every list: what is done to one is done to all."""
    later = re.compile(r"\w*(blocks|layers|refiner)\.[1-9]")
    return {key: shape for key, shape in tensors.items() if not later.match(key)}


def write_sampled(path: Path, tensors: Shapes, metadata: Mapping[str, str] | None = None) -> None:
    """A file of zeros, which take no place on the disk, with some numbers in every tensor."""
    header = file_header(tensors, metadata)
    random = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(header)
        file.truncate(len(header) + 2 * sum(math.prod(shape) for shape in tensors.values()))
        for start in _samples(tensors.values()):
            file.seek(len(header) + 2 * start)
            file.write(random.standard_normal(1).astype(np.float16).tobytes())


def _samples(shapes: Iterator[Shape]) -> Iterator[int]:
    """Where numbers are: in each sixth of a tensor, so that halves and thirds differ."""
    sizes = [math.prod(shape) for shape in shapes]
    for start, size in zip(itertools.accumulate(sizes, initial=0), sizes, strict=False):
        yield from (start + size * sixth // 6 for sixth in range(6) if size)
