"""A LoRA is moved to a MODEL of the graph: what all nodes that move one share."""

from dataclasses import dataclass

from ..prolora.errors import ProLoRAError
from ..prolora.naming.output_names import rename
from ..prolora.recording.calibrated import transfer_recorded
from ..prolora.transfer.job import transfer_resolved
from ..prolora.transfer.modes import CALIBRATED
from ..prolora.transfer.report_text import summary_of, warning_of
from . import host
from .transferred_lora import TransferredLora


@dataclass(frozen=True)
class Moved:
    """A LoRA for the MODEL, what happened as a text, and what the user must hear of it, or ""."""

    lora: TransferredLora
    summary: str
    warning: str


def target_of(model, clip, unique_id, prompt):
    """The core's Model of the node's inputs `model` and `clip`."""
    name = host.file_behind(prompt or {}, unique_id, "model") or "the MODEL of the graph"
    path = host.path_behind(prompt or {}, unique_id, "model")
    return host.model_from_graph(model, clip, name, path)


def move(source_lora, target, model, clip, settings, recording=None, notes=()) -> Moved:
    """Moves a LoRA by weights, or by a recording too.

    Args:
        target: see target_of.
        notes: lines for the summary.

    Raises:
        ProLoRAError: see transfer_resolved and transfer_recorded; or the recording does not fit.
    """
    host.make_room(source_lora.file.module_names, target)
    job = source_lora, target, settings
    if recording is None:
        result = transfer_resolved(*job, host.Progress())
    else:
        result = _by_recording(job, model, clip, recording)
    for note in notes:
        result = result.noted(note)
    named = rename(result.contents, target.key_map, target.architecture)
    lora = TransferredLora.of(named.adapters, named.style, result.metadata(), target)
    summary = "\n  ".join((summary_of(result.report), *named.notes))
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


def _by_recording(job, model, clip, recording):
    source_lora, target, settings = job
    bare = host.without_loras(model)
    if settings.settled(recorded=True).mode == CALIBRATED:
        recording.check_latents(*host.latent_format(bare), target.name)
    text = None if clip is None else host.text_network_of(host.clip_without_loras(clip))
    network = host.network_of(bare)
    with host.memory_explained():
        return transfer_recorded(
            source_lora, target, recording, network, settings, host.Progress(), text
        )
