"""The source model: a file that is read but never loaded, or a MODEL of the graph."""

from ..prolora.errors import ProLoRAError
from ..prolora.models.model import Model
from . import host

FROM_INPUT = "(the connected source_model)"


def checkpoint_input(tooltip):
    """An input that chooses a checkpoint or diffusion model, or the connected source_model."""
    return ([*host.model_names(), FROM_INPUT], {"tooltip": tooltip})


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
        return host.model_from_graph(source_model, source_clip, name)
    if source_checkpoint == FROM_INPUT and recording is not None:
        return recording.source
    if source_checkpoint == FROM_INPUT:
        raise ProLoRAError(
            "No source: connect a MODEL to source_model, or choose a source_checkpoint."
        )
    return host.model_from_file(host.model_path(source_checkpoint))
