"""The four quadrants of an update, by the subspaces of the weight that it was trained on.

Eq. 2 of the paper has two of them; it drops the mixed ones.
"""

from dataclasses import dataclass
from functools import partial

from .maps import Term, coordinates, same
from .subspace import Subspace
from .updates import Update


@dataclass(frozen=True)
class Quadrants:
    """Energies ||.||_F^2 of the four parts of an update; they add up to that of the update.

    The first word is the left side (outputs), the second the right side (inputs).
    """

    subspace_subspace: float
    subspace_null: float
    null_subspace: float
    null_null: float

    @property
    def total(self) -> float:
        return self.subspace_subspace + self.subspace_null + self.null_subspace + self.null_null


def quadrants_of(update: Update, source: Subspace) -> Quadrants:
    """Splits the energy of an m x n update by P = U U^T and Q = V V^T of the source's subspace."""
    left = Term(partial(coordinates, basis=source.U), same)
    right = Term(same, partial(coordinates, basis=source.V))
    inside_left, inside_right = update.apply([left]), update.apply([right])
    both = inside_left.apply([right]).energy()
    left_energy, right_energy = inside_left.energy(), inside_right.energy()
    outside = update.energy() - left_energy - right_energy + both
    parts = (both, left_energy - both, right_energy - both, outside)
    return Quadrants(*(max(part, 0.0) for part in parts))
