"""Weights under other keys than a file's, each made of the file's weights when it is read."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from .references import Slice, swap_halves
from .weights import Weights


@dataclass(frozen=True)
class Origin:
    """What of a file a weight is made of.

    Attributes:
        key: the file's own.
        part: of its rows; None for all.
        transposed: whether the file has it the other way round, inputs by outputs.
        halves_swapped: whether the file has the second half of the rows first.
    """

    key: str
    part: Slice | None = None
    transposed: bool = False
    halves_swapped: bool = False


class RearrangedWeights:
    """Weights that are renamed, cut out of others, or joined of several.

    Args:
        weights: a file's.
        origins: new key -> what it is made of, joined along the rows.
    """

    def __init__(self, weights: Weights, origins: Mapping[str, tuple[Origin, ...]]) -> None:
        self._weights, self._origins = weights, origins

    def __iter__(self) -> Iterator[str]:
        return iter(self._origins)

    def __contains__(self, key: object) -> bool:
        return key in self._origins

    def shape(self, key: str) -> tuple[int, ...]:
        shapes = [self._shape(origin) for origin in self._origins[key]]
        return shapes[0] if len(shapes) == 1 else (sum(s[0] for s in shapes), *shapes[0][1:])

    def read(self, key: str) -> torch.Tensor:
        tensors = [self._read(origin) for origin in self._origins[key]]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def _shape(self, origin: Origin) -> tuple[int, ...]:
        shape = self._weights.shape(origin.key)
        if origin.part is not None:
            shape = (origin.part.length, *shape[1:])
        return shape[::-1] if origin.transposed else shape

    def _read(self, origin: Origin) -> torch.Tensor:
        tensor = self._weights.read(origin.key)
        if origin.part is not None:
            tensor = tensor.narrow(0, origin.part.start, origin.part.length)
        if origin.halves_swapped:
            tensor = swap_halves(tensor)
        return tensor.t() if origin.transposed else tensor
