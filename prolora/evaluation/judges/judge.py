"""What a judge is."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from PIL.Image import Image


class Judge(Protocol):
    """A network that describes pictures."""

    def pictures(self, images: "Sequence[Image]") -> Tensor:
        """Describes n pictures: n x ..., on the CPU."""


class Reader(Judge, Protocol):
    """A judge that reads prompts as well, and describes both in one space: n x d."""

    def prompts(self, texts: Sequence[str]) -> Tensor:
        """Describes n prompts: n x d, on the CPU."""


class Comparer(Judge, Protocol):
    """A judge of pairs."""

    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        """Measures n pairs of what `pictures` gives: n, on the CPU."""


# Loads the judge of the weights; ProLoRAError where they do not fit or its library is missing.
Load = Callable[[Path, torch.device], Judge]
