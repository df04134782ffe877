"""Last stage: what was moved, under the target's names, with the report."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from .._version import __version__
from ..adapters import Adapter, AdapterFile, FullDifference, LoraAdapter, Part, VectorPatch
from ..adapters.accelerators import ACCELERATOR_KEY, describe
from ..errors import ProLoRAError, truncated_list
from ..models.model import Model
from ..models.references import Slice, WeightRef
from ..naming.fused import Piece, regroup
from ..pairing.alignment import Alignment
from ..pairing.module_pairs import ModulePair
from ..pairing.summary import stage_lines
from ..pairing.target_locations import closest_name
from ..progress import Progress, silent
from ..provenance.doubts import doubts_of_target
from ..provenance.moved import Move, moved_header
from .modes import CROSSING
from .plan import Plan
from .report import Report
from .resolve import ResolvedLora
from .settings import TransferSettings
from .tasks import ModuleResult

LORA_DIGEST = "prolora_lora_digest"  # where a file of a result has its LoRA's AdapterFile.digest

Results = Sequence[tuple[ModulePair, ModuleResult]]


@dataclass(frozen=True)
class TransferResult:
    """The moved adapters, in the order of the file, and what happened to every module.

    Attributes:
        vector_patches: what has no subspaces, carried over as it was.
        accelerator: see AdapterFile.
        file: the LoRA that was moved.
        move: what its header becomes in the result's.
    """

    adapters: tuple[Adapter, ...]
    report: Report
    vector_patches: tuple[VectorPatch, ...] = ()
    accelerator: str = ""
    file: AdapterFile | None = None
    move: Move | None = None

    def noted(self, *notes: str) -> "TransferResult":
        """The same with more notes in its report."""
        report = replace(self.report, notes=(*self.report.notes, *notes))
        return replace(self, report=report)

    @property
    def contents(self) -> tuple[Part, ...]:
        """What the file of this result holds; see lora_state_dict."""
        return (*self.adapters, *self.vector_patches)

    def metadata(self) -> dict[str, str]:
        """What a file of this result says about itself, for write_lora."""
        ours = self._ours()
        if self.file is None or self.move is None:
            return ours
        return moved_header(self.file.metadata, self.move, ours)

    def _ours(self) -> dict[str, str]:
        report = self.report
        return {
            "prolora_version": __version__,
            "prolora_lora": report.lora,
            **({} if self.file is None else {LORA_DIGEST: self.file.digest}),
            "prolora_source": report.source,
            "prolora_target": report.target,
            **{f"prolora_{name}": value for name, value in report.settings.items()},
            **({ACCELERATOR_KEY: self.accelerator} if self.accelerator else {}),
            "prolora_modules_moved": str(report.count("moved")),
            "prolora_modules_copied": str(report.count("copied")),
            "prolora_modules_skipped": str(report.count("skipped")),
        }


def assemble(
    lora: ResolvedLora,
    target: Model,
    alignment: Alignment,
    plan: Plan,
    results: Results,
    settings: TransferSettings,
    progress: Progress = silent,
) -> TransferResult:
    """The result of a job.

    Args:
        progress: told of where a model's file has to be read to know it.

    Raises:
        ProLoRAError: two modules go to one weight of the target and cannot be joined to one.
        Exception: whatever `progress` raises.
    """
    adapters = _named(results, target)
    file = lora.file
    said = file.metadata, file.config
    against_target = doubts_of_target(*said, lora.source, target, progress)
    doubts = (*lora.doubts, *against_target)
    report = Report(
        lora=file.name,
        source=f"{lora.source.name} ({lora.source.architecture})",
        target=f"{target.name} ({target.architecture})",
        settings=_described(settings, lora),
        rows=(
            *(row for _, result in results for row in result.rows),
            *plan.vector_rows,
            *plan.rows_of_left(lora),
        ),
        unknown_keys=file.unknown,
        pairs=alignment.pairs,
        widths=plan.widths,
        warnings=tuple(str(doubt) for doubt in doubts if doubt.is_warning),
        notes=(
            *(str(doubt) for doubt in doubts if not doubt.is_warning),
            *([describe(file.accelerator)] if file.accelerator else []),
            *file.notes,
            # Without a host fewer names may be known, which must be told where some are not.
            *([lora.source.hint] if lora.source.hint and lora.unresolved else []),
            *stage_lines(alignment.blocks),
            *_left_by_width(plan, settings),
            *filter(None, [settings.chosen_mode.warning]),
            *_vectors_alone(results, adapters, plan),
        ),
    )
    move = Move(lora.source, target, file.families, {adapter.family for adapter in adapters})
    return TransferResult(adapters, report, plan.vectors, file.accelerator, file, move)


def _named(results: Results, target: Model) -> tuple[Adapter, ...]:
    """Under the target's names; parts that it cannot name are joined to the weight they are of.

    So are those of one place: of two adapters there ComfyUI loads the last alone.
    """
    named: list[Adapter] = []
    places: set[tuple[str, Slice | None]] = set()
    pieces: dict[str, list[Piece]] = defaultdict(list)
    pairs = [pair for pair, _ in results]
    for pair, result in results:
        if result.adapter is None:
            continue
        if pair.joins and isinstance(result.adapter, LoraAdapter):
            pieces[pair.target.key].append(Piece(result.adapter, pair.target))
        else:
            if (pair.target.key, pair.target.part) in places:
                _refuse_to_join(pair.target.key, pairs, target)
            named.append(result.adapter.renamed(pair.name))
            places.add((pair.target.key, pair.target.part))
    for key, parts in pieces.items():
        names: dict[WeightRef, list[str]] = defaultdict(list)
        for name, place in target.names_of(key):
            names[place].append(name)
        joined = regroup(parts, names, target.weights.shape(key)[0])
        if joined is None or any((key, piece.place.part) in places for piece in joined):
            _refuse_to_join(key, pairs, target)
        for piece in joined:
            name = closest_name(piece.adapter.name, names[piece.place])
            named.append(piece.adapter.renamed(name))
    return tuple(named)


def _refuse_to_join(key: str, pairs: Sequence[ModulePair], target: Model) -> NoReturn:
    both = [f"{p.adapter.name} ({p.adapter.family})" for p in pairs if p.target.key == key]
    raise ProLoRAError(
        f"Modules of the LoRA go to one weight of the target {target.name}, {key}, and cannot be "
        f"joined to one: {', '.join(truncated_list(both, 4))}. Take one of them out of the file."
    )


def _left_by_width(plan: Plan, settings: TransferSettings) -> tuple[str, ...]:
    if settings.chosen_mode.crosses_widths or not plan.left_by_width:
        return ()
    widths = f" ({plan.widths})" if plan.widths else ""
    return (
        f"{plan.left_by_width} modules have no place of their width in the target{widths}. "
        f"Mode {CROSSING}, which is experimental, goes from one width to another.",
    )


def _vectors_alone(results: Results, adapters: Sequence[Adapter], plan: Plan) -> tuple[str, ...]:
    """report_text.warning_of has its own words for a result of nothing at all."""
    if adapters or not results or not plan.vectors:
        return ()
    return (
        "NO UPDATE OF A WEIGHT WAS MOVED: what the result has are differences of norms and "
        "biases. Lower the threshold to move more.",
    )


def _described(settings: TransferSettings, lora: ResolvedLora) -> Mapping[str, str]:
    ranks = sorted({_unchosen_rank(adapter, settings) for adapter in lora.file.adapters})
    return {
        "mode": settings.chosen_mode.name,
        "threshold": f"{settings.threshold:g}",
        "energy": f"{settings.subspace_energy:g}",
        "rank": str(settings.rank or " or ".join(ranks) or "none"),
        **({"unserved": f"{settings.unserved:g}"} if settings.unserved else {}),
    }


def _unchosen_rank(adapter: Adapter, settings: TransferSettings) -> str:
    """What rank 0 gives, for people."""
    mode = settings.chosen_mode
    if mode.as_it_is:
        return "as in the source"
    if mode.rank and not adapter.rank:
        return str(mode.rank)
    if isinstance(adapter, FullDifference):
        return "whole"
    return "as in the source" if adapter.rank else "what keeps 99 %"
