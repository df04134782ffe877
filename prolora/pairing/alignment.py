"""Which weight of one model is which of another, where the two need not line up.

Modules of one name belong together, and so do the blocks of two stages of one length: models of one
architecture are paired by name, and no weight is read. A stage that is longer in one of them (a
pruned child, a deepened one) is aligned: blocks keep their order, and those pairs are taken whose
modules are the most alike. The stages are found in the names and shapes alone, nested ones included
(an entry of `input_blocks` holds `transformer_blocks`).
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from ..models.references import Slice
from .block_pairs import check_pairs
from .block_similarity import BlockSimilarity
from .fused_parts import fused_parts
from .module_tree import Node, as_linear
from .monotonic_alignment import monotonic_alignment

# Blocks that are less alike than this, in the mean of their modules, are not worth pairing.
WORTHY = 0.25

BY_NAME, BY_SIMILARITY, BY_SHAPE, GIVEN = "by name", "by similarity", "by shape", "as given"


@dataclass(frozen=True)
class Link:
    """Two weights, by their keys, or the rows of them, that correspond."""

    source: str
    target: str
    source_rows: Slice | None = None
    target_rows: Slice | None = None


@dataclass(frozen=True)
class BlockPair:
    """A block of the target, and the source's that serves it.

    So is a single weight in a list that was aligned, or in a pair that was given.

    Attributes:
        source, target: paths; "" for none.
        stage: the two lists, the source's and the target's, by their paths.
        how: BY_NAME, BY_SIMILARITY, BY_SHAPE or GIVEN.
        similarity: of their modules in the mean; None where it did not matter.
    """

    source: str
    target: str
    stage: tuple[str, str]
    how: str
    similarity: float | None = None


@dataclass(frozen=True)
class Alignment:
    """What corresponds.

    Attributes:
        links: by the source's key.
        blocks: of the stages that were gone through, those without a partner too.
        unmatched_source: key -> the path of its block or module, for those of the source that none
            of the target took, where it could have.
        source_of_target: the target's key -> the path of the source's block or module that serves
            the block or module it lies in; "" for none.
        given: the pairs that a user gave.
    """

    links: Mapping[str, tuple[Link, ...]]
    blocks: tuple[BlockPair, ...]
    unmatched_source: Mapping[str, str]
    source_of_target: Mapping[str, str]
    given: Mapping[str, str | None] = field(default_factory=dict)

    def relates(self, modules: int) -> bool:
        """Whether two models of so many modules are relatives, as far as this tells.

        One or two modules outside of blocks, as `final_layer.linear`, make no relatives.
        """
        paired = any(block.source and block.target for block in self.blocks)
        return paired or 10 * len(self.links) > modules

    @property
    def pairs(self) -> dict[str, str | None]:
        """Target block -> source block, in the form that a user may give; see block_pairs.py."""
        found = {block.target: block.source or None for block in self.blocks if block.target}
        return found | dict(self.given)  # which may also name single modules


def align(
    source: Node,
    target: Node,
    similarity: BlockSimilarity,
    given: Mapping[str, str | None] | None = None,
    wanted: Iterable[str] | None = None,
    across_widths: bool = False,
) -> Alignment:
    """Finds what of the target corresponds to what of the source.

    Args:
        source, target: see module_tree.
        given: target module or block -> the source's, or None for none at all. They go before what
            would be found for them and for all below them; what is named serves nothing else.
        wanted: the source's keys that matter; all, if it is left out.
        across_widths: pair blocks that are built alike also where but some widths differ. Where
            most of them do, that is done all the same: so a refusal can name both.

    Raises:
        ProLoRAError: see check_pairs.
    """
    given = given or {}
    check_pairs(given, source, target)
    keys = {node.key for node in source.walk()} if wanted is None else set(wanted)
    return _Search(source, target, similarity, given, keys, across_widths).run()


@dataclass
class _Search:
    source: Node
    target: Node
    similarity: BlockSimilarity
    given: Mapping[str, str | None]
    wanted: set[str]
    across_widths: bool
    links: dict[str, list[Link]] = field(default_factory=lambda: defaultdict(list))
    blocks: list[BlockPair] = field(default_factory=list)
    unmatched_source: dict[str, str] = field(default_factory=dict)
    source_of_target: dict[str, str] = field(default_factory=dict)
    aligned: "dict[tuple[str, str], list[_Entry]]" = field(default_factory=dict)

    def run(self) -> Alignment:
        self._pair(self.source, self.target)
        for target_path in sorted(self.given, key=lambda path: path.count(".")):
            source_path = self.given[target_path]
            source = self.source.at(source_path) if source_path else None
            target = self.target.at(target_path)
            if target is not None:
                stage = target_path.rpartition(".")[0]
                self._enter(_Entry(source, target, GIVEN), (stage, stage))
        links = {key: tuple(links) for key, links in self.links.items()}
        alone = {key: path for key, path in self.unmatched_source.items() if key not in links}
        return Alignment(links, tuple(self.blocks), alone, self.source_of_target, self.given)

    def _pair(self, source: Node, target: Node) -> None:
        """Links all that corresponds in two modules."""
        if not any(node.key in self.wanted for node in source.walk()):
            return
        if source.key and target.key:
            self._link(source, target)
        ours, theirs = source.named, target.named
        for name in _common(ours, theirs):
            self._take(self._by_name(ours[name], theirs[name]))
        alone = {name: node for name, node in ours.items() if name not in theirs}
        others = {name: node for name, node in theirs.items() if name not in ours}
        for found in fused_parts(alone, others):
            self._link_part(found.whole, found.part, source_rows=found.rows)
        for found in fused_parts(others, alone):
            self._link_part(found.part, found.whole, target_rows=found.rows)
        for entry in self._entries(source, target):
            self._enter(entry, (source.path, target.path))

    def _enter(self, entry: "_Entry", stage: tuple[str, str]) -> None:
        either = entry.source or entry.target
        if either is not None and (either.is_block or entry.how != BY_NAME):
            ours = entry.source.path if entry.source is not None else ""
            theirs = entry.target.path if entry.target is not None else ""
            self.blocks.append(BlockPair(ours, theirs, stage, entry.how, entry.similarity))
        if entry.target is not None:
            path = entry.source.path if entry.source is not None else ""
            self.source_of_target |= {node.key: path for node in entry.target.walk()}
        self._take(entry)

    def _take(self, entry: "_Entry") -> None:
        if entry.source is not None and entry.target is not None:
            self._pair(entry.source, entry.target)
        elif entry.source is not None:
            self._leave(entry.source)
        elif entry.target is not None:
            self.source_of_target |= {node.key: "" for node in entry.target.walk()}

    def _link(
        self,
        source: Node,
        target: Node,
        source_rows: Slice | None = None,
        target_rows: Slice | None = None,
    ) -> None:
        self.links[source.key].append(Link(source.key, target.key, source_rows, target_rows))

    def _by_name(self, source: Node, target: Node) -> "_Entry":
        """Two of one name, without either that was given another partner."""
        return _Entry(
            None if source.path in self.given.values() else source,
            None if target.path in self.given else target,
            BY_NAME,
        )

    def _link_part(self, source: Node, target: Node, **rows: Slice) -> None:
        if target.path in self.given:
            self._leave(source)
        else:
            self._link(source, target, **rows)

    def _leave(self, source: Node) -> None:
        """Notes that nothing takes it, unless something else does; see run."""
        self.unmatched_source |= {node.key: source.path for node in source.walk()}

    # Lists

    def _entries(self, source: Node, target: Node) -> "list[_Entry]":
        """The entries of two lists, each with its partner or alone."""
        if (source.path, target.path) not in self.aligned:
            self.aligned[source.path, target.path] = self._align(source, target)
        return self.aligned[source.path, target.path]

    def _align(self, source: Node, target: Node) -> "list[_Entry]":
        ours, theirs = list(source.entries.values()), list(target.entries.values())
        if _agree(ours, theirs):
            entries = [self._by_name(s, t) for s, t in zip(ours, theirs, strict=True)]
            return [entry for entry in entries if entry.source or entry.target]
        if not ours or not theirs:  # one place, as `to_out.0` where the other has `to_out`
            ours, theirs = ([node for node in nodes if node.is_block] for nodes in (ours, theirs))
        ours = [node for node in ours if node.path not in self.given.values()]
        theirs = [node for node in theirs if node.path not in self.given]
        entries = self._by_similarity(ours, theirs)
        if not entries and _differ_in_width(ours, theirs, 0.0 if self.across_widths else 0.5):
            entries = _by_shape(ours, theirs)
        how = entries[0].how if entries else BY_SIMILARITY
        served = {entry.target.path: entry for entry in entries if entry.target is not None}
        taken = {entry.source.path for entry in entries if entry.source is not None}
        return [
            *(served.get(node.path) or _Entry(None, node, how) for node in theirs),
            *(_Entry(node, None, how) for node in ours if node.path not in taken),
        ]

    def _by_similarity(self, ours: Sequence[Node], theirs: Sequence[Node]) -> "list[_Entry]":
        scores = [[self._score(source, target) for target in theirs] for source in ours]
        gains = [[score.total - WORTHY * score.possible for score in row] for row in scores]
        return [
            _Entry(ours[i], theirs[j], BY_SIMILARITY, scores[i][j].mean)
            for i, j in monotonic_alignment(gains)
        ]

    def _score(self, source: Node, target: Node) -> "_Score":
        """How alike two modules are, over the matrices of both; those of nested lists aligned."""
        score = _Score()
        if len(source.shape) >= 2 and len(target.shape) >= 2:
            same = as_linear(source.shape) == as_linear(target.shape)
            alike = self.similarity(source, target) if same else 0.0
            if alike is not None:
                score += _Score(alike, 1)
        if not source.children or not target.children:
            return score
        ours, theirs = source.named, target.named
        for name in _common(ours, theirs):
            score += self._score(ours[name], theirs[name])
        entries = self._entries(source, target)
        for entry in entries:
            if entry.source is not None and entry.target is not None:
                score += self._score(entry.source, entry.target)
        # What the shorter list has left over speaks against the two.
        alone = [[e for e in entries if e.source is None], [e for e in entries if e.target is None]]
        left = min((_matrices(entries) for entries in alone), default=0)
        return score + _Score(0.0, left)


@dataclass(frozen=True)
class _Entry:
    """An entry of a list and its partner in the other model, or either alone."""

    source: Node | None
    target: Node | None
    how: str
    similarity: float | None = None


@dataclass(frozen=True)
class _Score:
    """A sum of similarities, and how many matrices could have been alike."""

    total: float = 0.0
    possible: int = 0

    def __add__(self, other: "_Score") -> "_Score":
        return _Score(self.total + other.total, self.possible + other.possible)

    @property
    def mean(self) -> float:
        return self.total / self.possible if self.possible else 0.0


def _common(ours: Mapping[str, Node], theirs: Mapping[str, Node]) -> list[str]:
    """The names that both have, in one order in every run."""
    return [name for name in ours if name in theirs]


def _matrices(entries: Iterable[_Entry]) -> int:
    nodes = (entry.source or entry.target for entry in entries)
    return sum(1 for node in nodes if node is not None for _ in node.matrices())


def _agree(ours: Sequence[Node], theirs: Sequence[Node]) -> bool:
    """Whether two lists have the same entries: the same numbers, and names that they share."""
    numbers = [[node.path.rpartition(".")[2] for node in nodes] for nodes in (ours, theirs)]
    if numbers[0] != numbers[1]:
        return False
    pairs = zip(ours, theirs, strict=True)
    return all(s.inside() & t.inside() or not s.inside() for s, t in pairs)


def _differ_in_width(ours: Sequence[Node], theirs: Sequence[Node], least: float) -> bool:
    """Whether more than this share of the modules' names has other shapes in all entries."""
    shapes = [_kinds(nodes) for nodes in (ours, theirs)]
    common = shapes[0].keys() & shapes[1].keys()
    differ = sum(shapes[0][name].isdisjoint(shapes[1][name]) for name in common)
    return differ > least * len(common)


def _kinds(nodes: Iterable[Node]) -> dict[str, set[tuple[int, ...]]]:
    found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for node in nodes:
        for kind, shapes in node.kinds().items():
            found[kind] |= shapes
    return found


def _by_shape(ours: Sequence[Node], theirs: Sequence[Node]) -> list[_Entry]:
    """Pairs entries that are built alike, at about the same depth of their lists."""
    alike = [[_built_alike(source, target) for target in theirs] for source in ours]
    most = max(map(max, alike), default=0.0) or 1.0
    gains = [
        [own / most - abs(_depth(i, ours) - _depth(j, theirs)) for j, own in enumerate(row)]
        for i, row in enumerate(alike)
    ]
    return [_Entry(ours[i], theirs[j], BY_SHAPE) for i, j in monotonic_alignment(gains)]


def _built_alike(source: Node, target: Node) -> float:
    """Share of the modules' kinds that both have, each weighed by how near its sizes are."""
    ours, theirs = source.kinds(), target.kinds()
    near = 0.0
    for kind in (kind for kind in ours if kind in theirs):  # in one order in every run
        sides = zip(min(ours[kind]), min(theirs[kind]), strict=False)
        near += min(min(a, b) / max(a, b) for a, b in sides)
    return near / max(len(ours.keys() | theirs.keys()), 1)


def _depth(position: int, nodes: Sequence[Node]) -> float:
    return position / max(len(nodes) - 1, 1)
