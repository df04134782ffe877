"""The similarity of two models, weight by weight; to be looked at before a transfer."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from ..algebra.leading import bytes_at_work, common_subspaces
from ..algebra.precision import full_float32
from ..algebra.subspace import Similarity, similarity
from ..errors import ProLoRAError
from ..models.model import Model
from ..models.module_names import is_text_encoder
from ..models.references import Slice, WeightRef
from ..pairing.alignment import Alignment, BlockPair, Link, align, compared
from ..pairing.block_similarity import RandomizedBlockSimilarity
from ..pairing.module_pairs import finest_parts
from ..pairing.module_tree import Node, as_linear, module_tree
from ..progress import Progress, silent
from ..threads import Limits, all_in_threads
from ..transfer.settings import TransferSettings

# Identical weights are not decomposed, so their chance levels are not known.
_IDENTICAL = Similarity(left=1.0, right=1.0, left_chance=0.0, right_chance=0.0)


@dataclass(frozen=True)
class Row:
    """A weight of the target and the weight of the source that belongs to it, or an unmatched one.

    Attributes:
        target, source: the paths of the two, with the rows of a fused weight that are meant; ""
            for none.
        block, source_block: the innermost block that each lies in; "" outside of blocks.
        module: the path within the block; of the source, where there is no target.
        target_shape, source_shape: of the weights, or of the rows that are meant; () for none.
        target_rank, source_rank: k_t and k_s; None where nothing was decomposed.
        similarity: Phi_l and Phi_r with their chance levels; None where it was not measured.
        reason: why it was not measured; "identical" for identical weights.
    """

    target: str
    source: str
    block: str
    source_block: str
    module: str
    target_shape: tuple[int, ...] = ()
    source_shape: tuple[int, ...] = ()
    target_rank: int | None = None
    source_rank: int | None = None
    similarity: Similarity | None = None
    reason: str = ""

    @property
    def corrected(self) -> float | None:
        """The smaller Phi, corrected for chance; None if the chance level is 1 on both sides."""
        if self.similarity is None:
            return None
        sides = self.similarity.left_corrected, self.similarity.right_corrected
        return min((side for side in sides if not math.isnan(side)), default=None)


@dataclass(frozen=True)
class Comparison:
    """The similarity of two models, weight by weight.

    Attributes:
        source, target: the models' names.
        architectures: of the source and of the target.
        energy: the share of a weight's energy that its subspace holds.
        threshold: the least phi at which a transfer moves a module.
        rows: the target's weights in its order, then the unmatched weights of the source.
        blocks: the pairs of blocks; see Alignment.
        pairs: target block -> source block, as a user may give them; see block_pairs.py.
        notes: what the user must know, a line each.
    """

    source: str
    target: str
    architectures: tuple[str, str]
    energy: float
    threshold: float
    rows: tuple[Row, ...]
    blocks: tuple[BlockPair, ...]
    pairs: Mapping[str, str | None]
    notes: tuple[str, ...] = ()

    @property
    def measured(self) -> tuple[tuple[Row, Similarity], ...]:
        """The rows that were measured, each with its similarity."""
        return tuple((row, row.similarity) for row in self.rows if row.similarity is not None)

    def leaves_out(self, row: Row) -> bool:
        """Whether phi is below the threshold, so that a transfer leaves the weight out."""
        phi = row.similarity
        return phi is not None and not phi.reaches(self.threshold)

    @property
    def below(self) -> int:
        """How many weights a transfer would leave out."""
        return sum(map(self.leaves_out, self.rows))


def block_label(row: Row) -> str:
    """The target's block, then the source's if it has another path."""
    ours, theirs = row.source_block, row.block
    if not row.source or not row.target or ours == theirs:
        return theirs if row.target else ours
    stage = theirs.rpartition(".")[0]
    short = ours.removeprefix(f"{stage}.") if stage else ours
    return f"{theirs or row.target} <- {short or row.source}"


@full_float32()
@torch.no_grad()
def compare(
    source: Model,
    target: Model,
    settings: TransferSettings,
    progress: Progress = silent,
) -> Comparison:
    """Measures phi (Eq. 1) for every pair of weights that belong together and have the same shape.

    Two weights are in memory at a time, for each thread at work. Both are decomposed exactly,
    unless they are identical.

    Args:
        source, target: the two models.
        settings: subspace_energy, threshold, pairs, device, workers and memory are used.
        progress: called with how many weights are done, how many there are, and the path of the
            oldest at work. What it raises stops the work.

    Raises:
        ProLoRAError: no weights of the two models belong together, or none of them have the same
            shape, or none can be read, or settings.pairs are wrong (see check_pairs).
        Exception: whatever `progress` raises; that is how a user cancels.
    """
    source, target, notes = _without_lone_text_encoder(source, target)
    trees = module_tree(source), module_tree(target)
    similarity = RandomizedBlockSimilarity(source, target, settings.device, progress)
    similarity.prepare(compared(*trees, settings.pairs), settings.workers)
    alignment = align(*trees, similarity, settings.pairs)
    rows = list(_rows(source, target, trees, alignment))
    _refuse_strangers(rows, alignment, source, target)
    finished = _all_measured(rows, source, target, settings, progress)
    return Comparison(
        source=source.name,
        target=target.name,
        architectures=(source.architecture, target.architecture),
        energy=settings.subspace_energy,
        threshold=settings.threshold,
        rows=finished,
        blocks=alignment.blocks,
        pairs=alignment.pairs,
        notes=notes,
    )


def _without_lone_text_encoder(
    source: Model, target: Model
) -> tuple[Model, Model, tuple[str, ...]]:
    """The two models and a note; a text encoder that only one of them has is left out."""
    texts = [_text_encoder(model) for model in (source, target)]
    if bool(texts[0]) == bool(texts[1]):
        return source, target, ()
    models = [
        replace(model, key_map={n: ref for n, ref in model.key_map.items() if ref.key not in keys})
        for model, keys in zip((source, target), texts, strict=True)
    ]
    has, lacks = (source, target) if texts[0] else (target, source)
    note = f"{lacks.name} comes without a text encoder, so that of {has.name} was not compared."
    return models[0], models[1], (note,)


def _text_encoder(model: Model) -> set[str]:
    return {ref.key for name, ref in model.key_map.items() if is_text_encoder(name)}


@dataclass(frozen=True)
class _Unmeasured:
    """A row, and the link whose weights are to be measured for it; None for none."""

    row: Row
    link: Link | None = None


def _rows(
    source: Model, target: Model, trees: tuple[Node, Node], alignment: Alignment
) -> Iterator[_Unmeasured]:
    ours = {node.key: (block, node) for block, node in matrices_in_blocks(trees[0])}
    paired: set[str] = set()
    links: dict[str, list[Link]] = defaultdict(list)
    for found in alignment.links.values():
        for link in found:
            if link.source in ours:
                links[link.target].append(link)
    unmatched = [pair.target for pair in alignment.blocks if not pair.source]
    for block, node in matrices_in_blocks(trees[1]):
        for link in links[node.key]:
            paired.add(link.source)
            yield _linked(link, *ours[link.source], block, node)
        if not links[node.key]:
            yield _Unmeasured(_unmatched_target(block, node, source, unmatched))
    for block, node in ours.values():
        if node.key not in paired:
            yield _Unmeasured(_unmatched_source(block, node, target, alignment))


def matrices_in_blocks(node: Node, block: str = "") -> Iterator[tuple[str, Node]]:
    """Every matrix in the model's order, with the innermost block around it ("" for none)."""
    if len(node.shape) >= 2:
        yield block, node
    for child in node.named.values():
        yield from matrices_in_blocks(child, block)
    for child in node.entries.values():
        yield from matrices_in_blocks(child, child.path if child.is_block else block)


def _linked(link: Link, source_block: str, ours: Node, block: str, theirs: Node) -> _Unmeasured:
    source_shape = _rows_of(ours.shape, link.source_rows)
    target_shape = _rows_of(theirs.shape, link.target_rows)
    same = as_linear(source_shape) == as_linear(target_shape)
    row = Row(
        target=_named(theirs.path, link.target_rows),
        source=_named(ours.path, link.source_rows),
        block=block,
        source_block=source_block,
        module=_named(_within(theirs.path, block), link.target_rows),
        target_shape=target_shape,
        source_shape=source_shape,
        reason="" if same else "another width",
    )
    return _Unmeasured(row, link if same else None)


def _unmatched_target(block: str, node: Node, source: Model, unmatched: list[str]) -> Row:
    in_unmatched_block = any(f"{node.path}.".startswith(f"{path}.") for path in unmatched)
    reason = "its block is unmatched" if in_unmatched_block else f"not in {source.name}"
    module = _within(node.path, block)
    return Row(node.path, "", block, "", module, target_shape=node.shape, reason=reason)


def _unmatched_source(block: str, node: Node, target: Model, alignment: Alignment) -> Row:
    reason = f"not in {target.name}"
    if node.key in alignment.unmatched_source:
        reason = "nothing in the target takes it"
    elif node.key in alignment.links:
        reason = f"no matrix in {target.name}"
    module = _within(node.path, block)
    return Row("", node.path, "", block, module, source_shape=node.shape, reason=reason)


def _within(path: str, block: str) -> str:
    return path.removeprefix(f"{block}.") if block else path


def _named(path: str, rows: Slice | None) -> str:
    return str(WeightRef(path, rows))


def _rows_of(shape: tuple[int, ...], rows: Slice | None) -> tuple[int, ...]:
    return shape if rows is None else (rows.length, *shape[1:])


def _all_measured(
    rows: Sequence[_Unmeasured],
    source: Model,
    target: Model,
    settings: TransferSettings,
    progress: Progress,
) -> tuple[Row, ...]:
    """All rows with their figures. One weight that cannot be read is no reason to stop.

    Raises:
        ProLoRAError: none can be read.
    """
    to_do = [row for row in rows if row.link is not None]

    def work(row: _Unmeasured) -> Row | ProLoRAError:
        assert row.link is not None
        try:
            return _measured(row.row, row.link, source, target, settings)
        except ProLoRAError as error:
            return error.with_traceback(None)  # which would hold the weights

    def size(row: _Unmeasured) -> int:
        return sum(map(bytes_at_work, (row.row.source_shape, row.row.target_shape)))

    limits = Limits.on(settings.device, size, settings.workers, settings.memory)
    found = all_in_threads(to_do, work, limits, progress, lambda row: row.row.target)
    errors = [one for one in found if isinstance(one, ProLoRAError)]
    if errors and len(errors) == len(found):
        raise errors[0]
    left = iter(found)
    return tuple(row.row if row.link is None else _filled(row.row, next(left)) for row in rows)


def _filled(row: Row, found: Row | ProLoRAError) -> Row:
    return found if isinstance(found, Row) else replace(row, reason=str(found))


def _measured(
    row: Row, link: Link, source: Model, target: Model, settings: TransferSettings
) -> Row:
    """The similarity of a pair of weights; of a fused weight, that of its least similar part.

    A transfer moves each part by itself, see pairing/module_pairs.py.
    """
    refs = WeightRef(link.source, link.source_rows), WeightRef(link.target, link.target_rows)
    ours, theirs = (
        model.weight(ref, settings.device, torch.float32).flatten(1)
        for model, ref in zip((source, target), refs, strict=True)
    )
    if torch.equal(ours, theirs):
        return replace(row, similarity=_IDENTICAL, reason="identical")
    parts = finest_parts(source, refs[0], target, refs[1], len(theirs))
    found = [
        common_subspaces(
            ours.narrow(0, rows.start, rows.length),
            theirs.narrow(0, rows.start, rows.length),
            settings.subspace_energy,
        )
        for rows in parts or (Slice(0, 0, len(theirs)),)
    ]
    least = min(found, key=lambda pair: similarity(pair.source, pair.target).score)
    return replace(
        row,
        source_rank=least.source_rank,
        target_rank=least.target_rank,
        similarity=similarity(least.source, least.target),
    )


def _refuse_strangers(
    rows: list[_Unmeasured], alignment: Alignment, source: Model, target: Model
) -> None:
    """Refuses two models with nothing to measure, or with next to nothing in common."""
    both = f"{source.name} ({source.architecture}) and {target.name} ({target.architecture})"
    same = source.architecture == target.architecture
    if not same and not alignment.relates(sum(1 for row in rows if row.row.source)):
        raise ProLoRAError(
            f"{both} have no blocks in common, so there is nothing to compare. "
            "Choose two models of one architecture."
        )
    if any(row.link is not None for row in rows):
        return
    first = next((row.row for row in rows if row.row.source and row.row.target), None)
    if first is None:
        by, advice = "", "Choose two models of one architecture"
        if alignment.given:
            by, advice = " by the pairs that were given", "Look at the pairs"
        raise ProLoRAError(
            f"{both}: no weight of the one fits a weight of the other{by}. {advice}."
        )
    shapes = [" x ".join(map(str, shape)) for shape in (first.source_shape, first.target_shape)]
    raise ProLoRAError(
        f"{both} cannot be compared: the widths of all weights differ. The first, {first.target}, "
        f"is {shapes[0]} in the source and {shapes[1]} in the target. Choose two models of the "
        "same size."
    )
