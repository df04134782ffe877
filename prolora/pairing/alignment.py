"""Which weights of the source model belong to which weights of the target model.

Modules with the same name belong together, and so do blocks with the same number in two stages of
the same length. No weight is read where the two models line up. A stage that is longer in one model
(the other is a pruned or a deepened child) is aligned: the blocks keep their order, and the pairs
are chosen whose block similarity is highest in total. The stages are found in names and shapes
alone, nested stages included (an entry of `input_blocks` holds `transformer_blocks`).
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

# Two blocks are paired only if their mean block similarity is above this.
MIN_BLOCK_SIMILARITY = 0.25

BY_NAME, BY_SIMILARITY, BY_SHAPE, GIVEN = "by name", "by similarity", "by shape", "as given"


@dataclass(frozen=True)
class Link:
    """A weight of the source and the weight of the target that belongs to it.

    Attributes:
        source, target: the keys of the two weights.
        source_rows, target_rows: the rows that belong together, where one model keeps fused what
            the other splits; None for all rows.
    """

    source: str
    target: str
    source_rows: Slice | None = None
    target_rows: Slice | None = None


@dataclass(frozen=True)
class BlockPair:
    """A block of the target and the block of the source that it takes, or one without the other.

    A single weight counts as a block where it is an entry of an aligned stage, or where a user
    paired it.

    Attributes:
        source, target: the paths of the blocks; "" for none.
        stage: the paths of the two stages, the source's first.
        how: BY_NAME, BY_SIMILARITY, BY_SHAPE or GIVEN.
        similarity: the mean block similarity of their modules; None where it was not measured.
    """

    source: str
    target: str
    stage: tuple[str, str]
    how: str
    similarity: float | None = None


@dataclass(frozen=True)
class Alignment:
    """Which weights and blocks of two models belong together.

    Attributes:
        links: the key of a source weight -> its links.
        blocks: the blocks of all stages that were compared, including those without a partner.
        unmatched_source: the key of a source weight -> the path of its block or module, for every
            weight that the target could have taken but did not.
        source_of_target: the key of a target weight -> the path of the source block or module that
            its own block or module takes; "" for none.
        given: the pairs that the user gave.
    """

    links: Mapping[str, tuple[Link, ...]]
    blocks: tuple[BlockPair, ...]
    unmatched_source: Mapping[str, str]
    source_of_target: Mapping[str, str]
    given: Mapping[str, str | None] = field(default_factory=dict)

    def relates(self, modules: int) -> bool:
        """Whether two models look related: a block is paired, or a tenth of the modules are linked.

        One or two linked modules outside of blocks, such as `final_layer.linear`, are not enough.

        Args:
            modules: how many modules there are to link.
        """
        paired = any(block.source and block.target for block in self.blocks)
        return paired or 10 * len(self.links) > modules

    @property
    def pairs(self) -> dict[str, str | None]:
        """Target block -> source block, in the form that a user may give; see block_pairs.py."""
        found = {block.target: block.source or None for block in self.blocks if block.target}
        return found | dict(self.given)  # the given pairs may also name single modules


def align(
    source: Node,
    target: Node,
    similarity: BlockSimilarity,
    given: Mapping[str, str | None] | None = None,
    wanted: Iterable[str] | None = None,
    across_widths: bool = False,
) -> Alignment:
    """Finds the weight of the target that belongs to each weight of the source.

    Args:
        source, target: the module trees of the two models; see module_tree.
        similarity: measures two weights of the same shape. It is called only for stages of
            different length.
        given: the path of a target module or block -> the path of the source's, or None for a
            target that takes nothing. A given pair overrides what would be found for the two
            modules and everything below them. A source that is named here is not used elsewhere.
        wanted: the keys of the source weights that matter; None for all.
        across_widths: pair blocks by the shapes of their modules if they cannot be paired by
            similarity and any of their widths differ. Without it they are paired so only if most
            widths differ, so that a refusal can name both widths.

    Raises:
        ProLoRAError: a given pair names a module that does not exist, or two modules with nothing
            in common; see check_pairs.
    """
    given = given or {}
    check_pairs(given, source, target)
    keys = {node.key for node in source.walk()} if wanted is None else set(wanted)
    return _Aligner(source, target, similarity, given, keys, across_widths).run()


def compared(
    source: Node,
    target: Node,
    given: Mapping[str, str | None] | None = None,
    wanted: Iterable[str] | None = None,
    across_widths: bool = False,
) -> tuple[tuple[Node, ...], tuple[Node, ...]]:
    """The modules, of either model, whose similarity `align` will ask for; no weight is read.

    It asks for all pairs of two lists before it takes any, so which it takes does not matter.
    """
    ours, theirs = dict[str, Node](), dict[str, Node]()

    def note(source: Node, target: Node) -> None:
        ours[source.key], theirs[target.key] = source, target

    align(source, target, note, given, wanted, across_widths)
    return tuple(ours.values()), tuple(theirs.values())


def align_blocks(
    source: Node,
    target: Node,
    similarity: BlockSimilarity,
    pairs: Mapping[str, str],
    wanted: Iterable[str],
    across_widths: bool = False,
) -> Alignment:
    """Links the modules inside these blocks, target -> source, and nothing else; see align."""
    return _Aligner(source, target, similarity, pairs, set(wanted), across_widths).run_given()


@dataclass
class _Aligner:
    """Walks two module trees together, and collects what an Alignment holds."""

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
    aligned_lists: "dict[tuple[str, str], list[_Entry]]" = field(default_factory=dict)

    def run(self) -> Alignment:
        self._align_modules(self.source, self.target)
        return self.run_given()

    def run_given(self) -> Alignment:
        for target_path in sorted(self.given, key=lambda path: path.count(".")):
            source_path = self.given[target_path]
            source = self.source.at(source_path) if source_path else None
            target = self.target.at(target_path)
            if target is not None:
                stage = target_path.rpartition(".")[0]
                self._record_entry(_Entry(source, target, GIVEN), (stage, stage))
        links = {key: tuple(links) for key, links in self.links.items()}
        # One part of the walk may leave a weight unmatched that another part links.
        unmatched = {key: path for key, path in self.unmatched_source.items() if key not in links}
        return Alignment(links, tuple(self.blocks), unmatched, self.source_of_target, self.given)

    def _align_modules(self, source: Node, target: Node) -> None:
        """Links all weights of two modules that belong together."""
        if not any(node.key in self.wanted for node in source.walk()):
            return
        if source.key and target.key:
            self._link(source, target)
        ours, theirs = source.named, target.named
        for name in _common(ours, theirs):
            self._align_entry(self._same_name(ours[name], theirs[name]))
        only_ours = {name: node for name, node in ours.items() if name not in theirs}
        only_theirs = {name: node for name, node in theirs.items() if name not in ours}
        for found in fused_parts(only_ours, only_theirs):
            self._link_part(found.whole, found.part, source_rows=found.rows)
        for found in fused_parts(only_theirs, only_ours):
            self._link_part(found.part, found.whole, target_rows=found.rows)
        for entry in self._entries(source, target):
            self._record_entry(entry, (source.path, target.path))

    def _record_entry(self, entry: "_Entry", stage: tuple[str, str]) -> None:
        """Records the block pair of an entry, then aligns the modules inside."""
        either = entry.source or entry.target
        if either is not None and (either.is_block or entry.how != BY_NAME):
            source_path = entry.source.path if entry.source is not None else ""
            target_path = entry.target.path if entry.target is not None else ""
            self.blocks.append(
                BlockPair(source_path, target_path, stage, entry.how, entry.similarity)
            )
        if entry.target is not None:
            path = entry.source.path if entry.source is not None else ""
            self.source_of_target |= {node.key: path for node in entry.target.walk()}
        self._align_entry(entry)

    def _align_entry(self, entry: "_Entry") -> None:
        """Aligns the two modules of an entry, or records the one that has no partner."""
        if entry.source is not None and entry.target is not None:
            self._align_modules(entry.source, entry.target)
        elif entry.source is not None:
            self._leave_unmatched(entry.source)
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

    def _same_name(self, source: Node, target: Node) -> "_Entry":
        """Two modules with the same name, without the one that a given pair uses elsewhere."""
        return _Entry(
            None if source.path in self.given.values() else source,
            None if target.path in self.given else target,
            BY_NAME,
        )

    def _link_part(self, source: Node, target: Node, **rows: Slice) -> None:
        if target.path in self.given:
            self._leave_unmatched(source)
        else:
            self._link(source, target, **rows)

    def _leave_unmatched(self, source: Node) -> None:
        self.unmatched_source |= {node.key: source.path for node in source.walk()}

    # Lists: stages, and sequences such as `to_out.0`

    def _entries(self, source: Node, target: Node) -> "list[_Entry]":
        """The entries of two lists, each with its partner or without one; aligned once."""
        if (source.path, target.path) not in self.aligned_lists:
            self.aligned_lists[source.path, target.path] = self._align_lists(source, target)
        return self.aligned_lists[source.path, target.path]

    def _align_lists(self, source: Node, target: Node) -> "list[_Entry]":
        ours, theirs = list(source.entries.values()), list(target.entries.values())
        if _line_up(ours, theirs):
            entries = [self._same_name(s, t) for s, t in zip(ours, theirs, strict=True)]
            return [entry for entry in entries if entry.source or entry.target]
        if not ours or not theirs:  # the `0` of `to_out.0` is no block; the other has `to_out`
            ours, theirs = ([node for node in nodes if node.is_block] for nodes in (ours, theirs))
        ours = [node for node in ours if node.path not in self.given.values()]
        theirs = [node for node in theirs if node.path not in self.given]
        entries = self._by_similarity(ours, theirs)
        if not entries and _widths_differ(ours, theirs, 0.0 if self.across_widths else 0.5):
            entries = _by_shape(ours, theirs)
        how = entries[0].how if entries else BY_SIMILARITY
        by_target = {entry.target.path: entry for entry in entries if entry.target is not None}
        taken = {entry.source.path for entry in entries if entry.source is not None}
        return [
            *(by_target.get(node.path) or _Entry(None, node, how) for node in theirs),
            *(_Entry(node, None, how) for node in ours if node.path not in taken),
        ]

    def _by_similarity(self, ours: Sequence[Node], theirs: Sequence[Node]) -> "list[_Entry]":
        scores = [[self._score(source, target) for target in theirs] for source in ours]
        gains = [[score.total - MIN_BLOCK_SIMILARITY * score.count for score in r] for r in scores]
        return [
            _Entry(ours[i], theirs[j], BY_SIMILARITY, scores[i][j].mean)
            for i, j in monotonic_alignment(gains)
        ]

    def _score(self, source: Node, target: Node) -> "_Score":
        """The block similarity of two modules, over all their matrices.

        Lists inside the two are aligned first. Matrices that are left over in the shorter list of
        two count as 0.
        """
        score = _Score()
        if len(source.shape) >= 2 and len(target.shape) >= 2:
            same_shape = as_linear(source.shape) == as_linear(target.shape)
            similarity = self.similarity(source, target) if same_shape else 0.0
            if similarity is not None:
                score += _Score(similarity, 1)
        if not source.children or not target.children:
            return score
        ours, theirs = source.named, target.named
        for name in _common(ours, theirs):
            score += self._score(ours[name], theirs[name])
        entries = self._entries(source, target)
        for entry in entries:
            if entry.source is not None and entry.target is not None:
                score += self._score(entry.source, entry.target)
        unmatched = (
            [entry for entry in entries if entry.source is None],
            [entry for entry in entries if entry.target is None],
        )
        return score + _Score(0.0, min(_count_matrices(entries) for entries in unmatched))


@dataclass(frozen=True)
class _Entry:
    """An entry of a list and its partner in the other model; None for no partner."""

    source: Node | None
    target: Node | None
    how: str
    similarity: float | None = None


@dataclass(frozen=True)
class _Score:
    """The sum of similarities, and the number of matrices that it is over."""

    total: float = 0.0
    count: int = 0

    def __add__(self, other: "_Score") -> "_Score":
        return _Score(self.total + other.total, self.count + other.count)

    @property
    def mean(self) -> float:
        return self.total / self.count if self.count else 0.0


def _common(ours: Mapping[str, Node], theirs: Mapping[str, Node]) -> list[str]:
    """The names that both have, in the source's order (a set's order differs between runs)."""
    return [name for name in ours if name in theirs]


def _count_matrices(entries: Iterable[_Entry]) -> int:
    nodes = (entry.source or entry.target for entry in entries)
    return sum(1 for node in nodes if node is not None for _ in node.matrices())


def _line_up(ours: Sequence[Node], theirs: Sequence[Node]) -> bool:
    """Whether two lists have the same numbers, and names in common at each number."""
    numbers = [[node.path.rpartition(".")[2] for node in nodes] for nodes in (ours, theirs)]
    if numbers[0] != numbers[1]:
        return False
    pairs = zip(ours, theirs, strict=True)
    return all(s.inside() & t.inside() or not s.inside() for s, t in pairs)


def _widths_differ(ours: Sequence[Node], theirs: Sequence[Node], share: float) -> bool:
    """Whether more than this share of the kinds that both lists have never agree in shape."""
    ours_by_kind, theirs_by_kind = _shapes_by_kind(ours), _shapes_by_kind(theirs)
    common = ours_by_kind.keys() & theirs_by_kind.keys()
    differ = sum(ours_by_kind[kind].isdisjoint(theirs_by_kind[kind]) for kind in common)
    return differ > share * len(common)


def _shapes_by_kind(nodes: Iterable[Node]) -> dict[str, set[tuple[int, ...]]]:
    """Node.shapes_by_kind of several modules together."""
    found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
    for node in nodes:
        for kind, shapes in node.shapes_by_kind().items():
            found[kind] |= shapes
    return found


def _by_shape(ours: Sequence[Node], theirs: Sequence[Node]) -> list[_Entry]:
    """Pairs entries whose modules have the same names and like sizes, at about the same depth."""
    scores = [[_shape_score(source, target) for target in theirs] for source in ours]
    highest = max(map(max, scores), default=0.0) or 1.0
    gains = [
        [score / highest - abs(_depth(i, ours) - _depth(j, theirs)) for j, score in enumerate(row)]
        for i, row in enumerate(scores)
    ]
    return [_Entry(ours[i], theirs[j], BY_SHAPE) for i, j in monotonic_alignment(gains)]


def _shape_score(source: Node, target: Node) -> float:
    """The share of the modules' kinds that both have, each weighted by the ratio of its sizes."""
    ours, theirs = source.shapes_by_kind(), target.shapes_by_kind()
    score = 0.0
    for kind in (kind for kind in ours if kind in theirs):  # in the same order in every run
        sides = zip(min(ours[kind]), min(theirs[kind]), strict=False)
        score += min(min(a, b) / max(a, b) for a, b in sides)
    return score / max(len(ours.keys() | theirs.keys()), 1)


def _depth(position: int, nodes: Sequence[Node]) -> float:
    """0 for the first entry of a list, 1 for the last."""
    return position / max(len(nodes) - 1, 1)
