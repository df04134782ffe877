"""The job, a stage after the other: resolve, align, plan, run, assemble. Data goes one way."""

from ..adapters import AdapterFile
from ..algebra.kept import NOTHING_KEPT, Forgetful
from ..algebra.precision import full_float32
from ..models.model import Model
from ..models.outline import refuse_outline
from ..pairing.alignment import Alignment, align
from ..pairing.block_similarity import RandomizedBlockSimilarity
from ..pairing.module_tree import module_tree, other_widths
from .assemble import TransferResult, assemble
from .backends import Progress, serial
from .maps import Maps
from .plan import check_rank, plan
from .resolve import ResolvedLora, resolve
from .settings import TransferSettings
from .tasks import tasks_of


def transfer_lora(
    file: AdapterFile,
    source: Model,
    target: Model,
    settings: TransferSettings,
    progress: Progress = lambda done, total, name: None,
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
    progress: Progress = lambda done, total, name: None,
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
    alignment, widths = _aligned(lora, target, settings, progress, kept)
    made = plan(lora, alignment, target, mode.crosses_widths, widths)
    check_rank(made.pairs, settings.rank)
    if maps is None and mode.provider is not None:
        refuse_outline(lora.source, mode.name)
        maps = mode.provider(settings.subspace_energy, kept)
    if maps is not None:
        maps.prepare(made.pairs)
    tasks = tasks_of(made.pairs, lora.source, target, settings)
    found = {id(pair): result for pair, result in serial(tasks, maps, progress)}
    results = [(pair, found[id(pair)]) for pair in made.pairs]  # in the order of the file
    return assemble(lora, target, alignment, made, results, settings)


def _aligned(
    lora: ResolvedLora,
    target: Model,
    settings: TransferSettings,
    progress: Progress,
    kept: Forgetful,
) -> tuple[Alignment, str]:
    """Which block serves which, and the widths in which the models differ, unless those may.

    Of two models that line up, no weight is read for it.
    """
    across = settings.chosen_mode.crosses_widths
    similarity = RandomizedBlockSimilarity(
        lora.source, target, settings.device, lambda name: progress(0, 1, name), lora.weights, kept
    )
    trees = module_tree(lora.source), module_tree(target)
    found = align(*trees, similarity, settings.pairs, lora.weights, across_widths=across)
    return found, "" if across else other_widths(*trees)
