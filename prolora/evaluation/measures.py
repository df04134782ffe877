"""The measures: what each is counted of, and what it says. A row is all that tells two apart."""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from .figures import Figure, figure_of, likeness, matched_cosines, pairs_within
from .judges.clip import Clip
from .judges.csd import Csd
from .judges.dino import Dino
from .judges.hps import Hps
from .judges.judge import Comparer, Judge, Load
from .judges.perceptual import Perceptual
from .mmd import mmd_squared

MOST_PAIRS = 1000
_PAIRS_AT_ONCE = 32


@dataclass(frozen=True)
class Seen:
    """The pictures of a row, as one judge describes them.

    Attributes:
        names: of the pictures, n.
        pictures: n x ...
        reference: m x ...; None where the measures of the judge need none.
        prompts: n x d; None likewise.
        texts: the prompts themselves, n, or none.
    """

    judge: Judge
    names: Sequence[str]
    pictures: Tensor
    reference: Tensor | None
    prompts: Tensor | None
    texts: Sequence[str]


@dataclass(frozen=True)
class Measure:
    """A column of the table.

    Attributes:
        option: whose weights it needs (WEIGHTS).
        needs_reference, needs_prompts: what it needs besides.
        better: "higher" or "lower".
        says: what it is, in a few words.
        of: the figure of a row, or why there is none.
        digits: after the point.
    """

    name: str
    option: str
    needs_reference: bool
    needs_prompts: bool
    better: str
    says: str
    of: Callable[[Seen], Figure | str]
    digits: int = 3


def _style(seen: Seen) -> Figure | str:
    assert seen.reference is not None
    if min(len(seen.pictures), len(seen.reference)) < 2:
        return "a distance of sets needs two pictures on both sides"
    return Figure(mmd_squared(seen.pictures, seen.reference), len(seen.pictures))


def _likeness(seen: Seen) -> Figure:
    assert seen.reference is not None
    return figure_of(likeness(seen.pictures, seen.reference), seen.names)


def _fidelity(seen: Seen) -> Figure:
    assert seen.prompts is not None
    return figure_of(matched_cosines(seen.pictures, seen.prompts), seen.names)


def _diversity(seen: Seen) -> Figure | str:
    groups: Sequence[Hashable] = seen.texts or [""] * len(seen.names)
    pairs = pairs_within(groups, MOST_PAIRS)
    if not pairs:
        return "no two pictures have one prompt"
    judge = cast(Comparer, seen.judge)
    apart: list[float] = []
    for start in range(0, len(pairs), _PAIRS_AT_ONCE):
        first, second = zip(*pairs[start : start + _PAIRS_AT_ONCE], strict=True)
        apart += judge.distances(
            seen.pictures[torch.tensor(first)], seen.pictures[torch.tensor(second)]
        ).tolist()
    if not all(map(math.isfinite, apart)):
        return "its weights give no finite numbers; take those that are published"
    return figure_of(apart, unit="pairs")


MEASURES = (
    Measure(
        "CSD-MMD", "csd", True, False, "lower", "distance from the reference's style", _style, 4
    ),
    Measure("DINOv2", "dino", True, False, "higher", "likeness to the reference", _likeness),
    Measure("CLIP-I", "clip", True, False, "higher", "likeness to the reference", _likeness),
    Measure("CLIP-T", "clip", False, True, "higher", "truth to the prompt", _fidelity),
    Measure("HPSv2.1", "hps", False, True, "higher", "what people prefer", _fidelity),
    Measure("LPIPS diversity", "lpips", False, False, "higher", "difference of seeds", _diversity),
)
JUDGES: dict[str, Load] = {
    "csd": Csd,
    "dino": Dino,
    "clip": Clip,
    "hps": Hps,
    "lpips": Perceptual,
}
