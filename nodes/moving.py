"""A LoRA is moved to a MODEL of the graph: what all nodes that move one share."""

from dataclasses import dataclass, replace

from ..prolora.errors import ProLoRAError
from ..prolora.recording.calibrated import transfer_recorded
from ..prolora.transfer.job import transfer_resolved
from ..prolora.transfer.modes import CALIBRATED
from ..prolora.transfer.report_text import summary_of, warning_of
from . import host
from .transferred_lora import TransferredLora, lora_of


@dataclass(frozen=True)
class Moved:
    """A LoRA for the MODEL, what happened as a text, and what the user must hear of it, or ""."""

    lora: TransferredLora
    summary: str
    warning: str


def move(source_lora, target, model, clip, settings, kept, recording=None, notes=()) -> Moved:
    """Moves a LoRA by weights, or by a recording too.

    Args:
        target: the Model of `model` and `clip`; see loaded_model.
        kept: the host.kept() that the node holds.
        notes: lines for the summary.

    Raises:
        ProLoRAError: see transfer_resolved and transfer_recorded; or the recording does not fit.
    """
    room = host.make_room(source_lora.file.module_names, target)
    job = source_lora, target, replace(settings, memory=room)
    if recording is None:
        result = transfer_resolved(*job, host.Progress(), kept=kept)
    else:
        result = _by_recording(job, model, clip, recording, kept)
    for note in notes:
        result = result.noted(note)
    lora, summary = lora_of(result, target, summary_of(result.report))
    return Moved(lora, summary, warning_of(result.report))


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


def _by_recording(job, model, clip, recording, kept):
    source_lora, target, settings = job
    bare = host.without_loras(model)
    if settings.settled(recorded=True).mode == CALIBRATED:
        recording.check_latents(*host.latent_format(bare), target.name)
    text = None if clip is None else host.text_network_of(host.clip_without_loras(clip))
    network = host.network_of(bare)
    with host.memory_explained():
        listened = source_lora, target, recording, network, settings
        return transfer_recorded(*listened, host.Progress(), text, kept=kept)
