"""Whether two results of one transfer agree: by their reports, and the updates in their files."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from prolora.algebra.updates import LowRankUpdate

_UP, _DOWN = ".lora_up.weight", ".lora_down.weight"
_PHI = ("phi_left", "phi_right")


@dataclass(frozen=True)
class Output:
    """The two files that a transfer wrote; the LoRA in kohya's layout."""

    lora: Path
    report: Path


@dataclass(frozen=True)
class Agreement:
    """The largest differences of all modules.

    Attributes:
        phi: of the similarities.
        ranks: how many modules have another k, or have not moved in one of them.
        updates: of a module's update, relative to its norm; rounding to fp16 alone is about 5e-4.
    """

    phi: float
    ranks: int
    updates: float


def agreement(ours: Output, theirs: Output) -> Agreement:
    """Of the same LoRA between the same models."""
    rows = list(zip(*(_rows(output.report) for output in (ours, theirs)), strict=True))
    phi = [abs(a[side] - b[side]) for a, b in rows for side in _PHI if a[side] and b[side]]
    ranks = [(a["status"], a["k"]) != (b["status"], b["k"]) for a, b in rows]
    updates = _differences(ours.lora, theirs.lora)
    return Agreement(max(phi, default=0.0), sum(ranks), max(updates, default=0.0))


def _rows(report: Path) -> list[dict[str, Any]]:
    rows = json.loads(report.read_text(encoding="utf-8"))["rows"]
    return sorted(rows, key=lambda row: row["name"])


def _differences(ours: Path, theirs: Path) -> Iterator[float]:
    with safe_open(ours, framework="pt") as mine, safe_open(theirs, framework="pt") as other:
        for name in (key.removesuffix(_UP) for key in mine.keys() if key.endswith(_UP)):
            up, down = (mine.get_tensor(name + part).double() for part in (_UP, _DOWN))
            up_2, down_2 = (other.get_tensor(name + part).double() for part in (_UP, _DOWN))
            between = _norm(torch.cat([up, -up_2], dim=1), torch.cat([down, down_2]))
            yield between / max(_norm(up, down), 1e-300)


def _norm(up: torch.Tensor, down: torch.Tensor) -> float:
    return math.sqrt(LowRankUpdate(up, down).energy())
