"""The job, a stage after the other: resolve, align, plan, run, assemble. Data goes one way."""

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from ..adapters import AdapterFile
from ..algebra.kept import NOTHING_KEPT, Forgetful, outside_heap
from ..algebra.precision import full_float32
from ..models.model import Model
from ..models.outline import refuse_outline
from ..pairing.alignment import Alignment, align, align_blocks, compared
from ..pairing.block_similarity import RandomizedBlockSimilarity
from ..pairing.module_tree import module_tree, other_widths
from ..pairing.unserved import neighbours
from ..progress import Progress, silent
from .assemble import TransferResult, assemble
from .backends import run_tasks
from .holding import Hold, held
from .maps import Maps
from .plan import Plan, check_rank, plan
from .resolve import ResolvedLora, resolve
from .settings import TransferSettings
from .shares import share
from .tasks import ModuleResult, tasks_of


@dataclass(frozen=True)
class Job:
    """A LoRA whose modules have found their places in the target; nothing of it is moved yet."""

    lora: ResolvedLora
    target: Model
    settings: TransferSettings
    alignment: Alignment
    plan: Plan


@dataclass(frozen=True)
class Blocks:
    """Which block serves which.

    Attributes:
        widths: in which the models differ; "" where the mode goes from one to another.
        shares: see plan.
    """

    alignment: Alignment
    widths: str
    shares: tuple[Alignment, ...]


# The weights that a LoRA changes -> which block serves which for it.
Aligned = dict[frozenset[str], Blocks]


def transfer_lora(
    file: AdapterFile,
    source: Model,
    target: Model,
    settings: TransferSettings,
    progress: Progress = silent,
    kept: Forgetful = NOTHING_KEPT,
    hold: Hold = outside_heap,
) -> TransferResult:
    """Moves a LoRA from the source model to the target model.

    Two weights are in memory at a time, for each thread at work. Neither model is changed.

    Args:
        kept: see transfer_resolved.
        hold: see transfer_jobs.

    Raises:
        ProLoRAError: see resolve, and transfer_resolved.
        Exception: whatever `progress` raises.
    """
    lora = resolve(file, source)
    return transfer_resolved(lora, target, settings, progress, kept=kept, hold=hold)


def transfer_resolved(
    lora: ResolvedLora,
    target: Model,
    settings: TransferSettings,
    progress: Progress = silent,
    maps: Maps | None = None,
    kept: Forgetful = NOTHING_KEPT,
    hold: Hold = outside_heap,
) -> TransferResult:
    """Moves a LoRA whose source is known; see transfer_lora.

    Args:
        maps: where the maps come from, for mode calibrated; else the mode tells.
        kept: what earlier jobs found on the same weights, by which this one takes less time and
            gives the same.
        hold: see transfer_jobs.

    Raises:
        ProLoRAError: see prepare_job and transfer_jobs.
        Exception: whatever `progress` raises.
    """
    kept.begin_job()
    job = prepare_job(lora, target, settings.settled(maps is not None), progress, kept)
    return transfer_jobs([job], progress, maps, kept, hold)[0]


@full_float32()
def prepare_job(
    lora: ResolvedLora,
    target: Model,
    settings: TransferSettings,
    progress: Progress = silent,
    kept: Forgetful = NOTHING_KEPT,
    aligned: Aligned | None = None,
) -> Job:
    """Finds the place of every module in the target.

    Args:
        kept: see transfer_resolved.
        aligned: what was found for other LoRAs of the same source, target and settings; what is
            found for this one is added.

    Raises:
        ProLoRAError: nothing can be paired, see plan; or the rank is larger than any module has
            room for.
        Exception: whatever `progress` raises.
    """
    settings = settings.settled(recorded=False)
    mode = settings.chosen_mode
    aligned = {} if aligned is None else aligned
    if lora.weights not in aligned:
        aligned[lora.weights] = _aligned(lora, target, settings, progress, kept)
    found = aligned[lora.weights]
    made = plan(lora, found.alignment, target, mode.crosses_widths, found.widths, found.shares)
    check_rank(made.pairs, settings.rank)
    if mode.provider is not None and not mode.needs_recording:
        refuse_outline(lora.source, mode.name)
    return Job(lora, target, settings, found.alignment, made)


@full_float32()
def transfer_jobs(
    jobs: Sequence[Job],
    progress: Progress = silent,
    maps: Maps | None = None,
    kept: Forgetful = NOTHING_KEPT,
    hold: Hold = outside_heap,
) -> list[TransferResult]:
    """Moves one LoRA or many; what is found of a pair of weights serves all that move between them.

    Args:
        jobs: of one source, one target and one choice of settings.
        maps, kept: see transfer_resolved.
        hold: where the moved tensors are until they are written; see holding.py.

    Returns:
        A result for each job.

    Raises:
        ProLoRAError: a weight cannot be read, see Model.weight; or an update is not finite.
        Exception: whatever `progress` raises.
    """
    first = jobs[0]
    source, target, settings = first.lora.source, first.target, first.settings
    pairs = [pair for job in jobs for pair in job.plan.pairs]
    if maps is None and settings.chosen_mode.provider is not None:
        maps = settings.chosen_mode.provider(settings.subspace_energy, kept)
    if maps is not None:
        maps.prepare(pairs)
    tasks = tasks_of(pairs, source, target, settings, kept)
    dtypes = {id(pair): job.lora.file.dtype for job in jobs for pair in job.plan.pairs}
    notes: list[str] = []
    with closing(run_tasks(tasks, maps, settings, progress, notes.append)) as moved:
        of_pair = {id(pair): held(result, dtypes[id(pair)], hold) for pair, result in moved}
    return [_finished(job, of_pair, progress).noted(*notes, *kept.notes) for job in jobs]


def _finished(job: Job, of_pair: Mapping[int, ModuleResult], progress: Progress) -> TransferResult:
    settings = job.settings
    results = [(pair, of_pair[id(pair)]) for pair in job.plan.pairs]  # in the order of the file
    results = share(results, settings.unserved, settings.rank)
    return assemble(job.lora, job.target, job.alignment, job.plan, results, settings, progress)


def _aligned(
    lora: ResolvedLora,
    target: Model,
    settings: TransferSettings,
    progress: Progress,
    kept: Forgetful,
) -> Blocks:
    """Of two models that line up, no weight is read for it."""
    across = settings.chosen_mode.crosses_widths
    models = lora.source, target
    similarity = RandomizedBlockSimilarity(*models, settings.device, progress, lora.weights, kept)
    trees = module_tree(lora.source), module_tree(target)
    asked = compared(*trees, settings.pairs, lora.weights, across)
    similarity.prepare(asked, settings.workers)
    found = align(*trees, similarity, settings.pairs, lora.weights, across)
    sides = neighbours(found.blocks) if settings.unserved else ()
    shares = (align_blocks(*trees, similarity, side, lora.weights, across) for side in sides)
    return Blocks(found, "" if across else other_widths(*trees), tuple(shares))
