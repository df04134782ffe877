"""How much is done: all of it, or a twenty-fifth of each training to see that everything runs."""

from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.evidence.results import BUILD, FOLDER
from demo.training.train import Recipe


@dataclass(frozen=True)
class Effort:
    """One of two.

    Attributes:
        folder: of what is trained.
        results: of what is measured.
        share: of the steps of a training.
    """

    folder: Path
    results: Path
    share: float

    def of(self, count: int) -> int:
        return max(8, round(count * self.share))

    def recipe(self, recipe: Recipe) -> Recipe:
        return replace(recipe, steps=self.of(recipe.steps))


FULL = Effort(BUILD / "fidelity", FOLDER, 1.0)
QUICK = Effort(BUILD / "quick" / "fidelity", BUILD / "quick", 0.04)
_chosen = [FULL]


def choose(effort: Effort) -> None:
    """For the rest of the program; before anything is trained or read."""
    _chosen[:] = [effort]


def effort() -> Effort:
    return _chosen[0]
