"""LoRAs of a fused weight: from its parts (to_q, to_k, to_v) to the whole (qkv), and back.

Exact both ways. Joined, the downs are stacked and the ups lie on a block diagonal, with zero rows
for a part that has no LoRA; split, each part takes its rows of the up and the down as it is.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..adapters import LoraAdapter
from ..models.references import WeightRef


@dataclass(frozen=True)
class Piece:
    """A LoRA, and the weight or part of one that it changes."""

    adapter: LoraAdapter
    place: WeightRef


def regroup(
    pieces: Sequence[Piece], places: Iterable[WeightRef], rows: int
) -> tuple[Piece, ...] | None:
    """The same update of one weight, by other parts of it; alpha equals the rank.

    Args:
        pieces: of one weight.
        places: the parts that the result may have, or the whole.
        rows: of the weight.

    Returns:
        None where these parts do not hold the update exactly.
    """
    places = list(places)
    if len({piece.adapter.down.shape[1:] for piece in pieces}) > 1:
        return None
    if not all(holds(places, piece.place, rows) for piece in pieces):
        return None
    made = (_composed(pieces, place, rows) for place in _cover(places, rows))
    return tuple(piece for piece in made if piece is not None)


def holds(places: Iterable[WeightRef], place: WeightRef, rows: int) -> bool:
    """Whether an update of one part of a weight can be told by these parts of it.

    Args:
        rows: of the weight.
    """
    if place.part is not None and place.part.dim != 0:
        return False
    held = {row for cover in _cover(places, rows) for row in _rows(cover, rows)}
    return held.issuperset(_rows(place, rows))


def _cover(places: Iterable[WeightRef], rows: int) -> Iterator[WeightRef]:
    """The whole if it may be had, else parts that do not overlap."""
    along_rows = [place for place in places if place.part is None or place.part.dim == 0]
    end = 0
    for place in sorted(along_rows, key=lambda place: _order(place, rows)):
        span = _rows(place, rows)
        if span.start >= end:
            yield place
            end = span.stop


def _order(place: WeightRef, rows: int) -> tuple[int, int, bool]:
    """From the first row on, the longer first, and first as it is stored."""
    span = _rows(place, rows)
    return span.start, -len(span), place.halves_swapped


def _rows(place: WeightRef, rows: int) -> range:
    if place.part is None:
        return range(rows)
    return range(place.part.start, place.part.start + place.part.length)


def _composed(pieces: Sequence[Piece], place: WeightRef, rows: int) -> Piece | None:
    """The update of one part; None where there is none."""
    span = _rows(place, rows)
    downs: list[torch.Tensor] = []
    blocks: list[tuple[int, int, torch.Tensor]] = []  # row, which of the downs, rows of the up
    for piece in pieces:
        own = _rows(piece.place, rows)
        start, stop = max(own.start, span.start), min(own.stop, span.stop)
        if start >= stop:
            continue
        adapter = piece.adapter
        up = adapter.up.float().flatten(start_dim=1) * adapter.scale
        up = piece.place.reordered(up)  # into the order that the weight is stored in
        shared = [i for i, down in enumerate(downs) if torch.equal(down, adapter.down)]
        if not shared:
            downs.append(adapter.down)
        which = shared[0] if shared else len(downs) - 1
        blocks.append((start - span.start, which, up[start - own.start : stop - own.start]))
    if not blocks:
        return None
    columns = torch.tensor([0, *(down.shape[0] for down in downs)]).cumsum(0).tolist()
    whole = torch.zeros(len(span), columns[-1])
    for row, which, block in blocks:
        whole[row : row + len(block), columns[which] : columns[which + 1]] += block
    whole = place.reordered(whole)
    down = torch.cat([down.float() for down in downs])
    used = whole.any(dim=0)
    if used.any():  # what was joined before gets its own rank back
        whole, down = whole[:, used], down[used]
    kernel = (1 for _ in down.shape[2:])
    up = whole.reshape(*whole.shape, *kernel)
    return Piece(LoraAdapter(pieces[0].adapter.name, up, down, float(len(down))), place)
