"""The source model: a file that is read but never loaded, or a MODEL of the graph."""

from ..prolora.errors import ProLoRAError
from ..prolora.models.model import Model
from ..prolora.provenance.doubts import Doubt
from ..prolora.provenance.finding import find_base
from ..prolora.provenance.header import base_said
from . import host

FROM_INPUT = "(the connected source_model)"
AUTO = "auto"  # the file that the LoRA's header names


def checkpoint_input(tooltip, *before):
    """An input that chooses a checkpoint or diffusion model, or the connected source_model.

    Args:
        before: other choices, which come first.
    """
    return ([*before, *host.model_names(), FROM_INPUT], {"tooltip": tooltip})


SOURCE_INPUTS = {
    "source_model": (
        "MODEL",
        {"tooltip": "Used instead of source_checkpoint when it is connected."},
    ),
    "source_clip": ("CLIP", {"tooltip": "The text encoder that belongs to source_model."}),
}


def chosen_source(
    source_checkpoint, source_model, source_clip, unique_id, prompt, recording=None
) -> Model:
    """The connected source_model, else the chosen file, else the source of the recording.

    Raises:
        ProLoRAError: there is neither, or a source_clip without a source_model, or the file is not
            a model (see host.model_from_file).
    """
    if source_clip is not None and source_model is None:
        raise ProLoRAError(
            "source_clip is connected without a source_model. Connect both, or neither: a "
            "source_checkpoint brings its own text encoder."
        )
    if source_model is not None:
        name = host.file_behind(prompt or {}, unique_id, "source_model") or "the source MODEL"
        path = host.path_behind(prompt or {}, unique_id, "source_model")
        return host.model_from_graph(source_model, source_clip, name, path)
    if source_checkpoint in (AUTO, FROM_INPUT) and recording is not None:
        return recording.source
    if source_checkpoint == FROM_INPUT:
        raise ProLoRAError(
            "No source: connect a MODEL to source_model, or choose a source_checkpoint."
        )
    return host.model_from_file(host.model_path(source_checkpoint))


def named_by(lora):
    """The file among the host's that a LoRA says it was trained on; see find_base.

    Args:
        lora: an AdapterFile.

    Returns:
        Its name in the list, and the doubts about it: one where it is a guess.

    Raises:
        ProLoRAError: it says nothing, or there is no such file.
    """
    base = base_said(lora.metadata, lora.config)
    if not base:
        raise ProLoRAError(
            f"{lora.name} does not say which checkpoint it was trained on, so source_checkpoint "
            "cannot be auto. Choose the file; the LoRA's page may name it."
        )
    found = find_base(base, host.model_paths(), host.Progress())
    if found is None:
        raise ProLoRAError(
            f"{lora.name} says that it was trained on {base}, and no checkpoint or diffusion model "
            "of this ComfyUI is that file. Put it there (and press R), or choose the "
            "source_checkpoint by hand."
        )
    if not found.is_guess:
        return found.name, ()
    guess = (
        f"auto took {found.name} as the source, by its name alone: a guess. Choose the "
        "source_checkpoint by hand if it is another."
    )
    return found.name, (Doubt(guess),)
