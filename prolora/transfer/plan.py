"""Second stage: what is moved where, and what stays behind, each decided once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from ..adapters import VectorPatch
from ..errors import ProLoRAError
from ..models.model import Model
from ..models.module_names import is_text_encoder
from ..pairing.alignment import Alignment
from ..pairing.module_pairs import ModulePair, Unpaired, as_matrix, mark_joins, pairs_of
from .modes import CROSSING
from .report import ModuleReport
from .resolve import ResolvedLora
from .shares import pairs_of_share
from .vectors import plan_vectors


@dataclass(frozen=True)
class Plan:
    """What becomes of every part of a LoRA.

    Attributes:
        pairs: the modules that are moved, each with its place in the target.
        vectors: what has no subspaces, by the target's names: carried over as it is.
        vector_rows: of the report, for every vector patch of the file.
        left: the modules that stay behind.
        widths: in which the two models differ, see module_tree.other_widths; "" where the mode
            goes from one width to another.
    """

    pairs: tuple[ModulePair, ...]
    vectors: tuple[VectorPatch, ...]
    vector_rows: tuple[ModuleReport, ...]
    left: tuple[Unpaired, ...]
    widths: str = ""

    @property
    def left_by_width(self) -> int:
        """How many stay behind because the target has another width there."""
        return sum(module.width_differs for module in self.left)

    def rows_of_left(self, lora: ResolvedLora) -> tuple[ModuleReport, ...]:
        """Of the report, for the modules that stay behind."""
        ranks = {adapter.name: adapter.rank for adapter in lora.file.adapters}
        return tuple(
            ModuleReport(
                name=module.name,
                status="skipped",
                reason=module.reason,
                source_key=str(module.source or ""),
                target_key=str(module.target or ""),
                source_shape=module.source_shape,
                target_shape=module.target_shape,
                rank_in=ranks.get(module.name, 0),
            )
            for module in self.left
        )


def plan(
    lora: ResolvedLora,
    alignment: Alignment,
    target: Model,
    across_widths: bool = False,
    widths: str = "",
    shares: Sequence[Alignment] = (),
) -> Plan:
    """Pairs every module and every vector patch of a LoRA with its place in the target.

    Args:
        across_widths: also where the two weights have other widths.
        widths: in which the two models differ; "" where that is no reason.
        shares: of blocks that nothing serves, with what serves their neighbours; see shares.py.

    Raises:
        ProLoRAError: nothing of it has a place there, or the two models share a name or two and
            nothing else.
    """
    file, source = lora.file, lora.source
    found: list[ModulePair | Unpaired] = [
        *(Unpaired(name, reason) for name, reason in file.left_out.items())
    ]
    resolved = {module.adapter.name: module for module in lora.adapters}
    for adapter in file.adapters:
        name = adapter.name
        if name in lora.shadowed:
            found.append(Unpaired(name, lora.shadowed[name]))
        elif name not in resolved:
            found.append(Unpaired(name, f"not in the source {source.name}"))
        else:
            found += pairs_of(resolved[name], source, target, alignment, across_widths)
    pairs = mark_joins([pair for pair in found if isinstance(pair, ModulePair)])
    movable = {name: module for name, module in resolved.items() if name not in lora.shadowed}
    for neighbour in shares:
        shared = [
            one
            for module in movable.values()
            for one in pairs_of_share(module, source, target, neighbour, across_widths)
        ]
        pairs += mark_joins([one for one in shared if isinstance(one, ModulePair)])
        found += [one for one in shared if isinstance(one, Unpaired)]
    vectors, rows = plan_vectors(lora, alignment, target)
    made = Plan(
        pairs=tuple(pairs),
        vectors=vectors,
        vector_rows=rows,
        left=tuple(module for module in found if isinstance(module, Unpaired)),
        widths=widths,
    )
    _refuse_strangers(lora, target, alignment, made.pairs)
    if not made.pairs and not made.vectors:
        _refuse_empty(lora, target, alignment, made)
    return made


def check_rank(pairs: Sequence[ModulePair], rank: int) -> None:
    """Refuses a rank that no module has room for.

    Raises:
        ProLoRAError: it is larger than the smaller side of every weight.
    """
    if not pairs:
        return
    roomiest = max(pairs, key=lambda pair: min(as_matrix(pair.target_shape)))
    m, n = as_matrix(roomiest.target_shape)
    possible = min(m, n)
    if rank > possible:
        raise ProLoRAError(
            f"The rank {rank} is larger than possible: the largest module of this LoRA, "
            f"{roomiest.adapter.name}, is {m} x {n}, which has rank {possible} at most. Choose a "
            f"rank up to {possible}, or 0 for the source's."
        )


def _refuse_strangers(
    lora: ResolvedLora, target: Model, alignment: Alignment, pairs: Sequence[ModulePair]
) -> None:
    """Raises where nothing but a name or two is the same in both architectures."""
    names = lora.file.module_names
    if lora.source.architecture == target.architecture or all(map(is_text_encoder, names)):
        return
    if alignment.relates(len(names)) or any(is_text_encoder(pair.name) for pair in pairs):
        return
    raise ProLoRAError(
        f"The LoRA {lora.file.name} cannot be moved {_between(lora.source, target)}: they have no "
        "blocks in common. Choose a target of the source's architecture, or a relative of it."
    )


def _refuse_empty(lora: ResolvedLora, target: Model, alignment: Alignment, made: Plan) -> NoReturn:
    """Raises the error for a LoRA of which nothing can be moved."""
    between = _between(lora.source, target)
    other = (f"{left.name}: {left.reason}" for left in made.left if left.width_differs)
    widths = made.widths or next(other, "")
    if widths:
        raise ProLoRAError(
            f"Nothing of the LoRA {lora.file.name} can be moved {between}: their widths differ "
            f"({widths}). Choose a target of the source's width, or mode {CROSSING}, which is "
            "experimental."
        )
    reasons = [f"{module.name}: {module.reason}" for module in made.left]
    reasons += [f"{row.name}: {row.reason}" for row in made.vector_rows]
    advice = "Look at the pairs" if alignment.given else "Choose a target built like the source"
    if not lora.file.contents:
        advice = (
            "Merge it into its model with the tool that made it, and extract a LoRA from the two"
        )
    raise ProLoRAError(
        f"Nothing of the LoRA {lora.file.name} can be moved {between}. "
        f"{len(reasons)} modules were looked at; the first: {reasons[0]}. {advice}."
    )


def _between(source: Model, target: Model) -> str:
    return f"from {source.name} ({source.architecture}) to {target.name} ({target.architecture})"
