"""What is counted of descriptors: cosines, pairs, a mean and its deviation."""

import statistics
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Figure:
    """What a measure says of the pictures of a row.

    Attributes:
        mean: the figure.
        count: of how many units.
        unit: "pictures", or "pairs" of pictures.
        deviation: of single units (n - 1); None where there is none.
        values: of every picture, by its name, where the measure has one.
    """

    mean: float
    count: int
    unit: str = "pictures"
    deviation: float | None = None
    values: Mapping[str, float] = field(default_factory=dict)


def figure_of(values: Sequence[float], names: Sequence[str] = (), unit: str = "pictures") -> Figure:
    """The mean and the deviation of values, one or more; with names, they are kept."""
    deviation = statistics.stdev(values) if len(values) > 1 else None
    named = dict(zip(names, values, strict=True)) if names else {}
    return Figure(statistics.fmean(values), len(values), unit, deviation, named)


def likeness(pictures: Tensor, reference: Tensor) -> list[float]:
    """The mean cosine of each picture to all of the reference.

    As DreamBooth counts CLIP-I and DINO (Ruiz et al., CVPR 2023, arXiv 2208.12242): the mean over
    all pairs.

    Args:
        pictures: n x d.
        reference: m x d.
    """
    cosines = normalize(pictures.double(), dim=1) @ normalize(reference.double(), dim=1).T
    return [float(value) for value in cosines.mean(dim=1)]


def matched_cosines(pictures: Tensor, prompts: Tensor) -> list[float]:
    """The cosine of each picture to its own prompt.

    Args:
        pictures, prompts: n x d.
    """
    cosines = torch.cosine_similarity(pictures.double(), prompts.double(), dim=1)
    return [float(value) for value in cosines]


def pairs_within(groups: Sequence[Hashable], most: int) -> list[tuple[int, int]]:
    """The pairs of places whose group is the same.

    Args:
        groups: of each place.
        most: where there are more pairs, as many are drawn, always the same ones.
    """
    pairs = [(i, j) for i, j in combinations(range(len(groups)), 2) if groups[i] == groups[j]]
    if len(pairs) <= most:
        return pairs
    drawn = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))[:most]
    return [pairs[i] for i in sorted(drawn.tolist())]
