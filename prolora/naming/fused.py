"""LoRAs of a fused weight: from its parts (to_q, to_k, to_v) to the whole (qkv), and back.

Both ways are exact. To join, the downs are stacked and the ups are placed on a block diagonal, with
zero rows for a part that has no LoRA. To split, each part gets its rows of up and the whole down.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..adapters import LoraAdapter
from ..models.references import WeightRef


@dataclass(frozen=True)
class Piece:
    """A LoRA, and the weight or the part of a weight that it changes."""

    adapter: LoraAdapter
    place: WeightRef


def regroup(
    pieces: Sequence[Piece], places: Iterable[WeightRef], rows: int
) -> tuple[Piece, ...] | None:
    """The same update of a weight, divided into other parts.

    Args:
        pieces: the LoRAs of the weight.
        places: the parts that the result may use, or the whole weight.
        rows: how many rows the weight has.

    Returns:
        A LoRA for each part that changes, with alpha equal to its rank; None where these parts
        cannot hold the update exactly.
    """
    places = list(places)
    if len({piece.adapter.down.shape[1:] for piece in pieces}) > 1:
        return None
    if not all(holds(places, piece.place, rows) for piece in pieces):
        return None
    made = (_composed(pieces, place, rows) for place in _cover(places, rows))
    return tuple(piece for piece in made if piece is not None)


def holds(places: Iterable[WeightRef], place: WeightRef, rows: int) -> bool:
    """Whether some of these parts of a weight together cover all rows of another part.

    Args:
        places: the parts, or the whole weight.
        place: the part that must be covered.
        rows: how many rows the weight has.
    """
    if place.part is not None and place.part.dim != 0:
        return False
    held = {row for cover in _cover(places, rows) for row in _rows(cover, rows)}
    return held.issuperset(_rows(place, rows))


def _cover(places: Iterable[WeightRef], rows: int) -> Iterator[WeightRef]:
    """The whole weight if it is among the places, else parts that do not overlap."""
    along_rows = [place for place in places if place.part is None or place.part.dim == 0]
    end = 0
    for place in sorted(along_rows, key=lambda place: _order(place, rows)):
        span = _rows(place, rows)
        if span.start >= end:
            yield place
            end = span.stop


def _order(place: WeightRef, rows: int) -> tuple[int, int, bool]:
    """Sorts by first row; then longer parts come first, then those without swapped halves."""
    span = _rows(place, rows)
    return span.start, -len(span), place.halves_swapped


def _rows(place: WeightRef, rows: int) -> range:
    if place.part is None:
        return range(rows)
    return range(place.part.start, place.part.start + place.part.length)


def _composed(pieces: Sequence[Piece], place: WeightRef, rows: int) -> Piece | None:
    """The update of one part; None where no piece changes it."""
    span = _rows(place, rows)
    downs: list[torch.Tensor] = []
    blocks: list[tuple[int, int, torch.Tensor]] = []  # first row, index of its down, rows of up
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
    if used.any():  # a part that is split off again gets its own rank back
        whole, down = whole[:, used], down[used]
    kernel = (1 for _ in down.shape[2:])
    up = whole.reshape(*whole.shape, *kernel)
    return Piece(LoraAdapter(pieces[0].adapter.name, up, down, float(len(down))), place)
