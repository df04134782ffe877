"""A model that weights are read of: a file that is never loaded, or a MODEL of the graph."""

from ..prolora.errors import ProLoRAError
from ..prolora.models.model import Model
from ..prolora.provenance.doubts import Doubt
from ..prolora.provenance.finding import find_base
from ..prolora.provenance.header import base_said
from . import host
from .files_seen import SEEN

AUTO = "auto"  # the file that the LoRA's header names


def from_input(side="source"):
    """The entry of the list of files that stands for the connected MODEL."""
    return f"(the connected {side}_model)"


FROM_INPUT = from_input()


def checkpoint_input(tooltip, *before, side="source"):
    """An input that chooses a checkpoint or diffusion model, or the connected MODEL.

    Args:
        before: other choices, which come first.
        side: what the input's name begins with: source, base or tuned.
    """
    return ([*before, *host.model_names(), from_input(side)], {"tooltip": tooltip})


def loaded_model(
    model, clip, unique_id, prompt, input_name="model", otherwise="the MODEL of the graph"
) -> Model:
    """The Model of a node's inputs for a MODEL and its CLIP, with its file where that is known.

    Args:
        clip: may be None.
        input_name: of the MODEL.
        otherwise: what to call it where its file is not known.
    """
    behind = prompt or {}, unique_id, input_name
    name = host.file_behind(*behind) or otherwise
    return host.model_from_graph(model, clip, name, host.path_behind(*behind))


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

    A node that reads a file by this is one that ReadsFiles.

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
        graph = unique_id, prompt
        return loaded_model(model, clip, *graph, f"{side}_model", f"the {side} MODEL")
    if checkpoint in (AUTO, from_input(side)) and recording is not None:
        return recording.source
    if checkpoint == from_input(side):
        raise ProLoRAError(
            f"No {side}: connect a MODEL to {side}_model, or choose a {side}_checkpoint."
        )
    path = host.model_path(checkpoint)
    SEEN.note(unique_id, [path])
    return host.model_from_file(path)


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
