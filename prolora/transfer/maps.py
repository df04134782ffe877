"""Where the maps of a pair of weights come from: one protocol, and the providers that need weights.

A provider sees all pairs first, then the weights of one pair after the other. What it finds for a
pair serves every update of that source weight, of one LoRA or of many.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import torch

from ..algebra.casa import PUBLISHED, Basis, arbitrate_in, source_basis
from ..algebra.maps import BasisMap, Term, terms_between
from ..algebra.quadrants import Quadrants, quadrants_of
from ..algebra.subspace import Similarity, Subspace, SubspacePair, common_subspaces, similarity
from ..algebra.updates import DenseUpdate, Update
from ..algebra.widths import similarity_across, with_signs
from ..pairing.module_pairs import ModulePair
from .report import Measures

_TO_ANOTHER_WIDTH = "to another width, which is experimental"


@dataclass(frozen=True)
class Moved:
    """What an update of a source weight becomes on the target weight.

    Attributes:
        note: what the user must know of this module, or "".
        readouts_off: see Measures.
    """

    update: Update
    note: str = ""
    readouts_off: tuple[float, float] | None = None


class PairMaps(Protocol):
    """What was found for a pair of weights, m_s x n_s and m_t x n_t."""

    @property
    def measures(self) -> Measures:
        """What was measured on the two weights; the threshold is for its similarity."""

    @property
    def note(self) -> str:
        """What the user must know, or ""."""

    def moved(self, update: Update, module: str) -> Moved:
        """What an update of the source weight becomes on the target weight.

        Args:
            module: the name that the LoRA's file has for it.
        """

    def quadrants(self, update: Update) -> Quadrants | None:
        """The energies of the update's four parts (Eq. 2); None without subspaces."""


class Maps(Protocol):
    """A provider of maps."""

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Sees every pair of the job, before the first one."""

    def of(self, pair: ModulePair, source: torch.Tensor, target: torch.Tensor) -> PairMaps:
        """The maps for a pair.

        Args:
            source, target: its weights as matrices, in one dtype on one device.
        """


@dataclass(frozen=True)
class SubspacePairMaps:
    """Terms made of the leading subspaces of both weights; see PairMaps."""

    terms: tuple[Term, ...]
    source: Subspace
    measures: Measures
    note: str = ""

    def moved(self, update: Update, module: str) -> Moved:
        return Moved(update.apply(self.terms))

    def quadrants(self, update: Update) -> Quadrants:
        return quadrants_of(update, self.source)


@dataclass(frozen=True)
class SubspaceMaps:
    """The projection (Eq. 2 and 3, and its variants), from the weights alone.

    Attributes:
        maps: for either side, one for each term; see PROJECTION_MODES.
        energy: share of a weight's energy that its subspace holds, in (0, 1).
    """

    maps: tuple[BasisMap, ...]
    energy: float

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Nothing: each pair of weights tells all there is to know of it."""

    def of(self, pair: ModulePair, source: torch.Tensor, target: torch.Tensor) -> SubspacePairMaps:
        found = common_subspaces(source, target, self.energy)
        if source.shape == target.shape:
            phi, note = similarity(found.source, found.target), ""
        else:
            ours, theirs = with_signs(found.source, found.target)
            found = replace(found, source=ours, target=theirs)
            phi, note = similarity_across(ours, theirs), _TO_ANOTHER_WIDTH
        terms = terms_between(found.source, found.target, self.maps)
        return SubspacePairMaps(terms, found.source, _measures(found, phi), note)


@dataclass(frozen=True)
class ArbitratedPairMaps:
    """CASA's rules, which are no sum of terms: they go entry by entry. See PairMaps and casa.py.

    Attributes:
        source, target: the two weights, m x n.
    """

    source: torch.Tensor
    target: torch.Tensor
    subspace: Subspace
    measures: Measures
    note: str = ""

    @cached_property
    def _basis(self) -> Basis:
        return source_basis(self.source, self.target - self.source)

    def moved(self, update: Update, module: str) -> Moved:
        drift = self.target - self.source
        return Moved(DenseUpdate(arbitrate_in(self._basis, update.delta, drift, PUBLISHED)))

    def quadrants(self, update: Update) -> Quadrants:
        return quadrants_of(update, self.subspace)


@dataclass(frozen=True)
class ArbitrationMaps:
    """CASA's arbitration, from the weights alone.

    Attributes:
        energy: of the subspaces that the similarity is measured by.
    """

    energy: float

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Nothing, see SubspaceMaps."""

    def of(
        self, pair: ModulePair, source: torch.Tensor, target: torch.Tensor
    ) -> ArbitratedPairMaps:
        found = common_subspaces(source, target, self.energy)
        measures = _measures(found, similarity(found.source, found.target))
        return ArbitratedPairMaps(source, target, found.source, measures)


class CopiedPairMaps:
    """Every update as it is; see PairMaps."""

    measures = Measures()
    note = ""

    def moved(self, update: Update, module: str) -> Moved:
        return Moved(update)

    def quadrants(self, update: Update) -> None:
        return None


class CopiedMaps:
    """No map at all, for a source whose weights are not known."""

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Nothing, see SubspaceMaps."""

    def of(self, pair: ModulePair, source: torch.Tensor, target: torch.Tensor) -> CopiedPairMaps:
        return CopiedPairMaps()


def _measures(found: SubspacePair, phi: Similarity) -> Measures:
    return Measures(found.source_rank, found.target_rank, found.source.rank, phi)
