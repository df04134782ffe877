"""The job: module by module, with progress, cancellation and a report."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import torch

from .._version import __version__
from ..adapters import (
    Adapter,
    AdapterFile,
    FullDifference,
    LoraAdapter,
    VectorPatch,
    accelerators,
)
from ..adapters.accelerators import MARK
from ..algebra.precision import full_float32
from ..errors import ProLoRAError, truncated_list
from ..models.model import Model
from ..models.references import Slice, WeightRef
from ..naming.fused import Piece, regroup
from ..pairing.alignment import Alignment, align
from ..pairing.block_similarity import RandomizedBlockSimilarity
from ..pairing.module_pairs import (
    Pair,
    Pairing,
    as_matrix,
    check_belongs,
    pair_modules,
    refuse_empty,
    refuse_strangers,
)
from ..pairing.module_tree import module_tree, other_widths
from ..pairing.summary import stage_lines
from ..pairing.target_locations import closest_name
from .module import CASA_RANK, Module, MovedModule, transfer_module
from .report import ModuleReport, Report
from .settings import TransferSettings
from .vectors import CarriedPatches, carry_vector_patches

# Called before each module with (modules done, modules in all, name of the next), and once at the
# end. Whatever it raises stops the job: that is how a user cancels.
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class TransferResult:
    """The moved adapters, in the order of the file, and what happened to every module.

    Attributes:
        differences: what has no subspaces, carried over as it was.
        accelerator: see AdapterFile.
    """

    adapters: tuple[Adapter, ...]
    report: Report
    vector_patches: tuple[VectorPatch, ...] = ()
    accelerator: str = ""

    @property
    def contents(self) -> tuple[Adapter | VectorPatch, ...]:
        """What the file of this result holds; see lora_state_dict."""
        return (*self.adapters, *self.vector_patches)

    def metadata(self) -> dict[str, str]:
        """What a file of this result says about itself, for a safetensors header."""
        report = self.report
        return {
            "prolora_version": __version__,
            "prolora_lora": report.lora,
            "prolora_source": report.source,
            "prolora_target": report.target,
            **{f"prolora_{name}": value for name, value in report.settings.items()},
            **({MARK: self.accelerator} if self.accelerator else {}),
            "prolora_modules_moved": str(report.count("moved")),
            "prolora_modules_copied": str(report.count("copied")),
            "prolora_modules_skipped": str(report.count("skipped")),
        }


@full_float32()
def transfer(
    file: AdapterFile,
    source: Model,
    target: Model,
    settings: TransferSettings,
    progress: Progress = lambda done, total, name: None,
) -> TransferResult:
    """Moves a LoRA from the source model to the target model.

    Two weights are in memory at a time. Neither model is changed.

    Raises:
        ProLoRAError: see check_belongs and Model.weight; or nothing can be paired, or the rank is
            larger than any module has room for.
        Exception: whatever `progress` raises.
    """
    check_belongs(file, source)
    alignment, widths = _alignment(file, source, target, settings, progress)
    pairing = pair_modules(file, source, target, alignment, settings.mode == "align")
    carried = carry_vector_patches(file.vector_patches, source, target, alignment, pairing.replaced)
    refuse_strangers(file, source, target, alignment, pairing.pairs)
    if not pairing.pairs and not carried.vector_patches:
        reasons = [f"{module.name}: {module.reason}" for module in pairing.unpaired]
        reasons += [f"{row.name}: {row.reason}" for row in carried.rows]
        wider = [
            f"{module.name}: {module.reason}" for module in pairing.unpaired if module.width_differs
        ]
        refuse_empty(file, source, target, alignment, reasons, widths or "".join(wider[:1]))
    _check_rank(pairing.pairs, settings.rank)
    ranks = {adapter.name: adapter.rank for adapter in file.adapters}
    skipped = [
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
        for module in pairing.unpaired
    ]
    moved = list(_move_all(pairing.pairs, source, target, settings, progress))
    adapters = _adapters(pairing.pairs, moved, target)
    report = Report(
        lora=file.name,
        source=f"{source.name} ({source.architecture})",
        target=f"{target.name} ({target.architecture})",
        settings=_describe(settings, file),
        rows=(*(module.row for module in moved), *carried.rows, *skipped),
        unknown_keys=file.unknown,
        pairs=alignment.pairs,
        widths=widths,
        notes=(
            *_accelerates(file),
            *file.notes,
            *_unknown_names(file, source),
            *stage_lines(alignment.blocks),
            *_left_by_width(pairing, widths, settings.mode),
            *_of_mode(settings.mode),
            *_only_differences(moved, adapters, carried),
        ),
    )
    return TransferResult(adapters, report, carried.vector_patches, file.accelerator)


def _alignment(
    file: AdapterFile,
    source: Model,
    target: Model,
    settings: TransferSettings,
    progress: Progress,
) -> tuple[Alignment, str]:
    """Of what the LoRA changes, and the widths in which the models differ, but in mode align.

    Of two models that line up, no weight is read for it.
    """

    def watch(name: str) -> None:
        progress(0, 1, name)

    places = (source.resolve(name) for name in file.module_names)
    wanted = {place.key for place in places if place is not None}
    similarity = RandomizedBlockSimilarity(source, target, settings.device, watch, wanted)
    trees = module_tree(source), module_tree(target)
    across = settings.mode == "align"
    found = align(*trees, similarity, settings.pairs, wanted, across_widths=across)
    return found, "" if across else other_widths(*trees)


def _adapters(
    pairs: tuple[Pair, ...], moved: Sequence[MovedModule], target: Model
) -> tuple[Adapter, ...]:
    """Under the target's names; parts that it cannot name are joined to the weight they are of.

    So are those of one place: of two adapters there ComfyUI loads the last alone.
    """
    named: list[Adapter] = []
    places: set[tuple[str, Slice | None]] = set()
    pieces: dict[str, list[Piece]] = defaultdict(list)
    uses = Counter((pair.target.key, pair.target.part) for pair in pairs)
    shared = {
        pair.target.key
        for pair in pairs
        if not pair.name or uses[pair.target.key, pair.target.part] > 1
    }
    for pair, module in zip(pairs, moved, strict=True):
        if module.adapter is None:
            continue
        if pair.target.key in shared and isinstance(module.adapter, LoraAdapter):
            pieces[pair.target.key].append(Piece(module.adapter, pair.target))
        else:
            named.append(module.adapter.renamed(pair.name))
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


def _refuse_to_join(key: str, pairs: tuple[Pair, ...], target: Model) -> NoReturn:
    both = [f"{p.adapter.name} ({p.adapter.family})" for p in pairs if p.target.key == key]
    raise ProLoRAError(
        f"Modules of the LoRA go to one weight of the target {target.name}, {key}, and cannot be "
        f"joined to one: {', '.join(truncated_list(both, 4))}. Take one of them out of the file."
    )


def _accelerates(file: AdapterFile) -> tuple[str, ...]:
    return (accelerators.describe(file.accelerator),) if file.accelerator else ()


def _left_by_width(pairing: Pairing, widths: str, mode: str) -> tuple[str, ...]:
    left = sum(module.width_differs for module in pairing.unpaired)
    if mode == "align" or not left:
        return ()
    return (
        f"{left} modules have no place of their width in the target{widths and f' ({widths})'}. "
        "Mode align, which is experimental, goes from one width to another.",
    )


def _of_mode(mode: str) -> tuple[str, ...]:
    """What a mode does that one would not expect of a LoRA."""
    if mode != "casa":
        return ()
    return (
        "Mode casa: the result takes back a part of what tells the two models apart, which is "
        "right at strength 1 only.",
    )


def _unknown_names(file: AdapterFile, source: Model) -> tuple[str, ...]:
    """Without a host fewer names are known, which must be told where some are not."""
    missing = any(source.resolve(name) is None for name in file.module_names)
    return (source.hint,) if source.hint and missing else ()


@torch.no_grad()
def _move_all(
    pairs: tuple[Pair, ...],
    source: Model,
    target: Model,
    settings: TransferSettings,
    progress: Progress,
) -> Iterator[MovedModule]:
    for done, pair in enumerate(pairs):
        progress(done, len(pairs), pair.adapter.name)
        source_weight = source.weight(pair.source, settings.device, settings.dtype)
        target_weight = target.weight(pair.target, settings.device, settings.dtype)
        source_weight = _padded(source_weight, pair.source_shape)
        target_weight = _padded(target_weight, pair.target_shape)
        yield transfer_module(Module(pair, source_weight, target_weight, settings))
    progress(len(pairs), len(pairs), "")


def _only_differences(
    moved: list[MovedModule], adapters: tuple[Adapter, ...], carried: CarriedPatches
) -> tuple[str, ...]:
    """Report.warning has its own words for a result of nothing at all."""
    if adapters or not moved or not carried.vector_patches:
        return ()
    return (
        "NO UPDATE OF A WEIGHT WAS MOVED: what the result has are differences of norms and "
        "biases. Lower the threshold to move more.",
    )


def _padded(weight: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """The weight with zeros after it, up to the shape of its pair."""
    room = [(0, wanted - side) for wanted, side in zip(shape, weight.shape, strict=True)]
    return torch.nn.functional.pad(weight, [side for pair in reversed(room) for side in pair])


def _check_rank(pairs: tuple[Pair, ...], rank: int) -> None:
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


def _unchosen_rank(adapter: Adapter, mode: str) -> str:
    """What rank 0 gives, for people."""
    if mode == "casa" and not adapter.rank:
        return str(CASA_RANK)
    if isinstance(adapter, FullDifference):
        return "whole"
    return "as in the source" if adapter.rank else "what keeps 99 %"


def _describe(settings: TransferSettings, file: AdapterFile) -> Mapping[str, str]:
    ranks = sorted({_unchosen_rank(adapter, settings.mode) for adapter in file.adapters})
    return {
        "mode": settings.mode,
        "threshold": f"{settings.threshold:g}",
        "energy": f"{settings.subspace_energy:g}",
        "rank": str(settings.rank or " or ".join(ranks) or "none"),
    }
