"""Parts of a fused weight that moved apart, joined to one adapter of the whole again. Exact."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from ..adapters import Adapter, FullDifference, LoraAdapter
from ..adapters.dora import DoraAdapter
from ..models.references import Slice, WeightRef
from ..naming.fused import Piece, regroup

Part = tuple[Slice, Adapter | None]


def join_rows(adapter: Adapter, parts: Sequence[Part], target: torch.Tensor) -> Adapter | None:
    """One adapter of a weight from those of its rows; None where there is none of them.

    Args:
        adapter: what they were before.
        parts: the rows that each has, one after the other, from the first to the last; None for
            rows that did not move, whose update is nothing.
        target: the weight, in its own shape.
    """
    if all(part is None for _, part in parts):
        return None
    if isinstance(adapter, DoraAdapter):
        return _joined_dora(adapter, parts, target)
    if any(isinstance(part, FullDifference) for _, part in parts):
        diffs = [
            torch.zeros(rows.length, *target.shape[1:]) if part is None else _delta(part, target)
            for rows, part in parts
        ]
        return FullDifference(adapter.name, torch.cat(diffs))
    whole = WeightRef("")
    pieces = [
        Piece(part, WeightRef("", rows)) for rows, part in parts if isinstance(part, LoraAdapter)
    ]
    joined = regroup(pieces, [whole], target.shape[0])
    assert joined is not None
    return joined[0].adapter


def _delta(part: Adapter, target: torch.Tensor) -> torch.Tensor:
    """The update of some rows, in the target's layout; of a LoRA or a full difference."""
    delta = part.update(target.cpu()).delta
    return delta.reshape(-1, *target.shape[1:])


def _joined_dora(
    adapter: DoraAdapter, parts: Sequence[Part], target: torch.Tensor
) -> Adapter | None:
    """Rows that did not move keep their own norms, which is no change."""
    directions: list[Part] = []
    magnitudes = []
    for rows, part in parts:
        own = target.narrow(0, rows.start, rows.length).flatten(start_dim=1)
        norms = torch.linalg.vector_norm(own, dim=1).cpu()
        moved = part if isinstance(part, DoraAdapter) else None
        magnitudes.append(moved.magnitude.flatten() if moved is not None else norms)
        directions.append((rows, moved.direction if moved is not None else None))
    direction = join_rows(adapter.direction, directions, target)
    if direction is None:
        return None
    ones = (1,) * (target.ndim - 1)
    return replace(adapter, direction=direction, magnitude=torch.cat(magnitudes).reshape(-1, *ones))
