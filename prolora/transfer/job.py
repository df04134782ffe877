"""The job, a stage after the other: resolve, align, plan, run, assemble. Data goes one way."""

from dataclasses import dataclass

from ..adapters import AdapterFile
from ..algebra.kept import NOTHING_KEPT, Forgetful
from ..algebra.precision import full_float32
from ..models.model import Model
from ..models.outline import refuse_outline
from ..pairing.alignment import Alignment, align, align_blocks
from ..pairing.block_similarity import RandomizedBlockSimilarity
from ..pairing.module_tree import module_tree, other_widths
from ..pairing.unserved import neighbours
from ..progress import Progress, silent
from .assemble import TransferResult, assemble
from .backends import serial
from .maps import Maps
from .plan import check_rank, plan
from .resolve import ResolvedLora, resolve
from .settings import TransferSettings
from .shares import share
from .tasks import tasks_of


def transfer_lora(
    file: AdapterFile,
    source: Model,
    target: Model,
    settings: TransferSettings,
    progress: Progress = silent,
) -> TransferResult:
    """Moves a LoRA from the source model to the target model.

    Two weights are in memory at a time. Neither model is changed.

    Raises:
        ProLoRAError: see resolve, and transfer_resolved.
        Exception: whatever `progress` raises.
    """
    return transfer_resolved(resolve(file, source), target, settings, progress)


@full_float32()
def transfer_resolved(
    lora: ResolvedLora,
    target: Model,
    settings: TransferSettings,
    progress: Progress = silent,
    maps: Maps | None = None,
    kept: Forgetful = NOTHING_KEPT,
) -> TransferResult:
    """Moves a LoRA whose source is known; see transfer_lora.

    Args:
        maps: where the maps come from, for mode calibrated; else the mode tells.
        kept: what earlier jobs found on the same weights, by which this one takes less time and
            gives the same.

    Raises:
        ProLoRAError: a weight cannot be read, see Model.weight; nothing can be paired, see plan; or
            the rank is larger than any module has room for.
        Exception: whatever `progress` raises.
    """
    settings = settings.settled(maps is not None)
    mode = settings.chosen_mode
    kept.begin_job()
    found = _aligned(lora, target, settings, progress, kept)
    across = mode.crosses_widths
    made = plan(lora, found.alignment, target, across, found.widths, found.shares)
    check_rank(made.pairs, settings.rank)
    if maps is None and mode.provider is not None:
        refuse_outline(lora.source, mode.name)
        maps = mode.provider(settings.subspace_energy, kept)
    if maps is not None:
        maps.prepare(made.pairs)
    tasks = tasks_of(made.pairs, lora.source, target, settings, kept)
    of_pair = {id(pair): result for pair, result in serial(tasks, maps, progress)}
    results = [(pair, of_pair[id(pair)]) for pair in made.pairs]  # in the order of the file
    results = share(results, settings.unserved, settings.rank)
    return assemble(lora, target, found.alignment, made, results, settings, progress)


@dataclass(frozen=True)
class _Aligned:
    """Which block serves which.

    Attributes:
        widths: in which the models differ; "" where the mode goes from one to another.
        shares: see plan.
    """

    alignment: Alignment
    widths: str
    shares: tuple[Alignment, ...]


def _aligned(
    lora: ResolvedLora,
    target: Model,
    settings: TransferSettings,
    progress: Progress,
    kept: Forgetful,
) -> _Aligned:
    """Of two models that line up, no weight is read for it."""
    across = settings.chosen_mode.crosses_widths
    similarity = RandomizedBlockSimilarity(
        lora.source, target, settings.device, lambda name: progress(0, 1, name), lora.weights, kept
    )
    trees = module_tree(lora.source), module_tree(target)
    found = align(*trees, similarity, settings.pairs, lora.weights, across_widths=across)
    sides = neighbours(found.blocks) if settings.unserved else ()
    shares = (align_blocks(*trees, similarity, side, lora.weights, across) for side in sides)
    return _Aligned(found, "" if across else other_widths(*trees), tuple(shares))
