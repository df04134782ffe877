"""A model that weights are read of: a file that is never loaded, or a MODEL of the graph."""

from ..prolora.errors import ProLoRAError
from ..prolora.models.model import Model
from . import host


def from_input(side="source"):
    """The entry of the list of files that stands for the connected MODEL."""
    return f"(the connected {side}_model)"


FROM_INPUT = from_input()


def checkpoint_input(tooltip, side="source"):
    """An input that chooses a checkpoint or diffusion model, or the connected MODEL.

    Args:
        side: what the input's name begins with: source, base or tuned.
    """
    return ([*host.model_names(), from_input(side)], {"tooltip": tooltip})


SOURCE_INPUTS = {
    "source_model": (
        "MODEL",
        {"tooltip": "Used instead of source_checkpoint when it is connected."},
    ),
    "source_clip": ("CLIP", {"tooltip": "The text encoder that belongs to source_model."}),
}


def chosen_source(
    checkpoint, model, clip, unique_id, prompt, recording=None, side="source"
) -> Model:
    """The connected MODEL, else the chosen file, else the source of the recording.

    Args:
        side: see checkpoint_input.

    Raises:
        ProLoRAError: there is neither, or a CLIP without a MODEL, or the file is not a model (see
            host.model_from_file).
    """
    if clip is not None and model is None:
        raise ProLoRAError(
            f"{side}_clip is connected without a {side}_model. Connect both, or neither: a "
            f"{side}_checkpoint brings its own text encoder."
        )
    if model is not None:
        name = host.file_behind(prompt or {}, unique_id, f"{side}_model") or f"the {side} MODEL"
        return host.model_from_graph(model, clip, name)
    if checkpoint == from_input(side) and recording is not None:
        return recording.source
    if checkpoint == from_input(side):
        raise ProLoRAError(
            f"No {side}: connect a MODEL to {side}_model, or choose a {side}_checkpoint."
        )
    return host.model_from_file(host.model_path(checkpoint))
