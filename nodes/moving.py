"""LoRAs are moved to MODELs of the graph: what all nodes that move them share."""

from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from ..prolora.errors import ProLoRAError
from ..prolora.models.model import Model
from ..prolora.recording.calibrated import transfer_recorded
from ..prolora.transfer.job import prepare_job, transfer_jobs
from ..prolora.transfer.modes import CALIBRATED
from ..prolora.transfer.report_text import summary_of, warning_of
from ..prolora.transfer.resolve import ResolvedLora
from ..prolora.transfer.settings import TransferSettings
from . import host
from .transferred_lora import TransferredLora, lora_of


@dataclass(frozen=True)
class Move:
    """A LoRA to move, by weights, or by a recording too.

    Attributes:
        target: the Model of `model` and `clip`, the host's; see loaded_model.
        notes: lines for the summary.
        label: what an error of it begins with; see named.
    """

    lora: ResolvedLora
    target: Model
    model: Any
    clip: Any
    settings: TransferSettings
    recording: Any = None
    notes: tuple[str, ...] = ()
    label: str = ""

    def goes_with(self, other: "Move") -> bool:
        """Whether both move between the same weights by the same settings, without a recording."""
        return (
            self.recording is other.recording is None
            and self.settings == other.settings
            and host.is_one(self.lora.source, other.lora.source)
            and host.is_one(self.target, other.target)
        )


@dataclass(frozen=True)
class Moved:
    """A LoRA for the MODEL, what happened as a text, and what the user must hear of it, or ""."""

    lora: TransferredLora
    summary: str
    warning: str


def move_all(moves: Sequence[Move], kept) -> list[Moved]:
    """Moves LoRAs; for those that go together, what is found of two weights serves all of them.

    Args:
        kept: the host.kept() that the node holds.

    Raises:
        ProLoRAError: see prepare_job, transfer_jobs and transfer_recorded; or the recording does
            not fit.
    """
    groups: list[list[int]] = []
    for number, one in enumerate(moves):
        group = next((g for g in groups if moves[g[0]].goes_with(one)), None)
        if group is None:
            groups.append([number])
        else:
            group.append(number)
    found = {}
    for group in groups:
        found |= zip(group, _group_moved([moves[number] for number in group], kept), strict=True)
    return [found[number] for number in range(len(moves))]


@contextmanager
def named(label):
    """Begins an error with the name of the LoRA that it is of; "" where there is but one."""
    try:
        yield
    except ProLoRAError as error:
        if not label:
            raise
        raise ProLoRAError(f"{label}: {error}") from error


def misfit(recording, file, target, model) -> str:
    """Why a recording does not serve a LoRA file and a MODEL; "" if it does."""
    bare = host.without_loras(model)
    try:
        recording.check_lora(file.digest, file.name)
        recording.check_latents(*host.latent_format(bare), target.name)
        recording.check_noise(host.network_of(bare).noised, target.name)
    except ProLoRAError as error:
        return str(error)
    return ""


def _group_moved(moves, kept) -> list[Moved]:
    target = moves[0].target
    names = {name for one in moves for name in one.lora.file.module_names}
    settings = replace(moves[0].settings, memory=host.make_room(names, target))  # one for all
    moves = [replace(one, settings=settings) for one in moves]
    if moves[0].recording is None:
        results = _by_weights(moves, kept)
    else:
        with named(moves[0].label):
            results = [_by_recording(moves[0], kept)]
    return [_moved(one, result) for one, result in zip(moves, results, strict=True)]


def _moved(one, result) -> Moved:
    for note in one.notes:
        result = result.noted(note)
    lora, summary = lora_of(result, one.target, summary_of(result.report))
    return Moved(lora, summary, warning_of(result.report))


def _by_weights(moves, kept):
    progress, jobs, aligned = host.Progress(), [], {}
    kept.begin_job()
    for one in moves:
        with named(one.label):
            given = one.lora, one.target, one.settings, progress, kept, aligned
            jobs.append(prepare_job(*given))
    try:
        return transfer_jobs(jobs, progress, kept=kept)
    except ProLoRAError:
        if len(jobs) == 1:
            raise
    found = []
    for one, job in zip(moves, jobs, strict=True):  # to find out whose error it is
        with named(one.label):
            found += transfer_jobs([job], progress, kept=kept)
    return found


def _by_recording(one, kept):
    bare = host.without_loras(one.model)
    if one.settings.settled(recorded=True).mode == CALIBRATED:
        one.recording.check_latents(*host.latent_format(bare), one.target.name)
    text = None if one.clip is None else host.text_network_of(host.clip_without_loras(one.clip))
    network = host.network_of(bare)
    with host.memory_explained():
        listened = one.lora, one.target, one.recording, network, one.settings
        return transfer_recorded(*listened, host.Progress(), text, kept=kept)
