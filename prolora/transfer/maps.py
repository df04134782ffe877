"""Where the maps of a pair of weights come from: one protocol, and the providers that need weights.

A provider sees all pairs first, then the weights of those that are at work together. What it finds
for a pair serves every update of that source weight, of one LoRA or of many.
"""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import astuple, dataclass, field
from functools import partial
from typing import Protocol

import torch

from ..algebra.casa import PUBLISHED, Basis, arbitrate_in, source_basis
from ..algebra.kept import BASES, NOTHING_KEPT, Forgetful
from ..algebra.leading import SubspacePair, common_subspaces_of_many
from ..algebra.maps import BasisMap, Parts, Term, terms_of
from ..algebra.quadrants import Quadrants, quadrants_of
from ..algebra.subspace import Similarity, Subspace, similarity
from ..algebra.updates import DenseUpdate, Update
from ..algebra.widths import similarity_across, with_signs
from ..lazy import lazy
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


class BothWeights(Protocol):
    """Two weights as matrices, in one dtype on one device, each read where it is looked at."""

    @property
    def source(self) -> torch.Tensor:
        """m_s x n_s."""

    @property
    def target(self) -> torch.Tensor:
        """m_t x n_t."""

    @property
    def shapes(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Of both, without reading them."""

    @property
    def device(self) -> torch.device:
        """Where they are."""

    @property
    def key(self) -> tuple[Hashable, ...]:
        """What both are known by, with their dtype and device; see algebra/kept.py."""


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

    def of(self, both: Sequence[tuple[ModulePair, BothWeights]]) -> Sequence[PairMaps]:
        """The maps for pairs of weights, which are decomposed together."""


@dataclass
class Together:
    """Pairs of weights of which the first whose subspaces are asked for has all decomposed.

    Many at once are what a GPU is good at. Those that are kept are left out.

    Attributes:
        waiting: the pairs that are not decomposed, by their place.
    """

    energy: float
    kept: Forgetful
    waiting: dict[int, BothWeights]
    _found: dict[int, SubspacePair] = field(default_factory=dict)

    def subspaces(self, place: int) -> SubspacePair:
        """Of the pair of that place; each may be asked for once."""
        if place not in self._found:
            now = {i: w for i, w in self.waiting.items() if i == place or not self._is_kept(w)}
            for i in now:
                del self.waiting[i]
            weights = [(both.source, both.target) for both in now.values()]
            found = common_subspaces_of_many(weights, self.energy)
            self._found |= dict(zip(now, found, strict=True))
        return self._found.pop(place)

    def _is_kept(self, weights: BothWeights) -> bool:
        return self.kept.holds(key_of_subspaces(weights, self.energy))


def key_of_subspaces(weights: BothWeights, energy: float) -> tuple[Hashable, ...]:
    """What the subspaces of two weights are kept under."""
    return (*weights.key, energy, BASES)


@dataclass(frozen=True)
class WeightPair:
    """What is known of two weights by their content: computed once, and kept.

    Attributes:
        energy: share of a weight's energy that its subspace holds, in (0, 1).
        find: see common_subspaces; called where the subspaces are not kept.
    """

    weights: BothWeights
    energy: float
    kept: Forgetful
    find: Callable[[], SubspacePair]

    @property
    def key(self) -> tuple[Hashable, ...]:
        return (*self.weights.key, self.energy)

    @property
    def subspaces(self) -> SubspacePair:
        """See common_subspaces; with signs, where the widths differ."""
        return self._found[0]

    @lazy
    def _found(self) -> tuple[SubspacePair, Similarity]:
        """The subspaces and their similarity, which are kept together."""
        key = key_of_subspaces(self.weights, self.energy)
        found = self.kept.tensors(key, self._decomposed, self.weights.device)
        ranks, figures = found[6].tolist(), found[7].tolist()
        pair = SubspacePair(Subspace(*found[:3]), Subspace(*found[3:6]), *ranks)
        return pair, Similarity(*figures)

    def _decomposed(self) -> tuple[torch.Tensor, ...]:
        found = self.find()
        ours, theirs = found.source, found.target
        if self.crosses_widths:
            ours, theirs = with_signs(ours, theirs)
        ranks = torch.tensor([found.source_rank, found.target_rank])
        phi = (similarity_across if self.crosses_widths else similarity)(ours, theirs)
        figures = torch.tensor(astuple(phi), dtype=torch.float64)
        return ours.U, ours.V, ours.shares, theirs.U, theirs.V, theirs.shares, ranks, figures

    @property
    def crosses_widths(self) -> bool:
        source, target = self.weights.shapes
        return source != target

    @lazy
    def measures(self) -> Measures:
        return self.kept.figure((*self.key, "measures"), self._measured)

    def _measured(self) -> Measures:
        found, phi = self._found
        return Measures(found.source_rank, found.target_rank, found.source.rank, phi)

    def quadrants(self, update: Update) -> Quadrants:
        """See quadrants_of."""
        key = (*self.key, "quadrants", self.kept.digest(lambda: update.numbers))
        return self.kept.figure(key, lambda: quadrants_of(update, self.subspaces.source))

    def terms(self, maps: Sequence[Parts]) -> tuple[Term, ...]:
        """See terms_of. What they make of columns is kept."""
        return terms_of(maps, partial(self._applied, "U"), partial(self._applied, "V"))

    def _applied(self, side: str, part: BasisMap, columns: torch.Tensor) -> torch.Tensor:
        """What a basis map makes of columns, with the bases U of the outputs or V of the inputs."""

        def found() -> tuple[torch.Tensor]:
            bases = self.subspaces
            return (part(columns, getattr(bases.source, side), getattr(bases.target, side)),)

        if columns.shape[1] >= (self.measures.common_rank or 0):  # no smaller than the bases
            return found()[0]
        key = (*self.key, side, part.__name__, self.kept.digest(lambda: columns))
        return self.kept.tensors(key, found, columns.device)[0]


def weight_pairs(
    both: Sequence[tuple[ModulePair, BothWeights]], energy: float, kept: Forgetful
) -> list[WeightPair]:
    """What is known of pairs of weights that are at work together."""
    waiting = [weights for _, weights in both]
    together = Together(energy, kept, dict(enumerate(waiting)))
    return [
        WeightPair(weights, energy, kept, partial(together.subspaces, i))
        for i, weights in enumerate(waiting)
    ]


@dataclass(frozen=True)
class SubspacePairMaps:
    """Terms made of the leading subspaces of both weights; see PairMaps."""

    known: WeightPair
    maps: tuple[Parts, ...]

    @property
    def measures(self) -> Measures:
        return self.known.measures

    @property
    def note(self) -> str:
        return _TO_ANOTHER_WIDTH if self.known.crosses_widths else ""

    def moved(self, update: Update, module: str) -> Moved:
        return Moved(update.apply(self.known.terms(self.maps)))

    def quadrants(self, update: Update) -> Quadrants:
        return self.known.quadrants(update)


@dataclass(frozen=True)
class SubspaceMaps:
    """The projection (Eq. 2 and 3, and its variants), from the weights alone.

    Attributes:
        maps: for either side, one for each term; see PROJECTION_MODES.
        energy: share of a weight's energy that its subspace holds, in (0, 1).
        kept: what is known of weights from earlier jobs.
    """

    maps: tuple[Parts, ...]
    energy: float
    kept: Forgetful = NOTHING_KEPT

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Nothing: each pair of weights tells all there is to know of it."""

    def of(self, both: Sequence[tuple[ModulePair, BothWeights]]) -> list[SubspacePairMaps]:
        known = weight_pairs(both, self.energy, self.kept)
        return [SubspacePairMaps(of_pair, self.maps) for of_pair in known]


@dataclass(frozen=True)
class ArbitratedPairMaps:
    """CASA's rules, which are no sum of terms: they go entry by entry. See PairMaps and casa.py."""

    known: WeightPair
    note: str = ""

    @property
    def measures(self) -> Measures:
        return self.known.measures

    @lazy
    def _basis(self) -> Basis:
        return source_basis(self.known.weights.source, self._drift)

    @property
    def _drift(self) -> torch.Tensor:
        return self.known.weights.target - self.known.weights.source

    def moved(self, update: Update, module: str) -> Moved:
        return Moved(DenseUpdate(arbitrate_in(self._basis, update.delta, self._drift, PUBLISHED)))

    def quadrants(self, update: Update) -> Quadrants:
        return self.known.quadrants(update)


@dataclass(frozen=True)
class ArbitrationMaps:
    """CASA's arbitration, from the weights alone.

    Attributes:
        energy: of the subspaces that the similarity is measured by.
        kept: see SubspaceMaps.
    """

    energy: float
    kept: Forgetful = NOTHING_KEPT

    def prepare(self, pairs: Sequence[ModulePair]) -> None:
        """Nothing, see SubspaceMaps."""

    def of(self, both: Sequence[tuple[ModulePair, BothWeights]]) -> list[ArbitratedPairMaps]:
        return [ArbitratedPairMaps(known) for known in weight_pairs(both, self.energy, self.kept)]


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

    def of(self, both: Sequence[tuple[ModulePair, BothWeights]]) -> list[CopiedPairMaps]:
        return [CopiedPairMaps() for _ in both]
