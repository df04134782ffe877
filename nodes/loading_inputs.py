"""What the nodes ask for that load a LoRA for a MODEL in one go."""

from pathlib import Path

from . import host
from .shared_inputs import CLIP_INPUT, MODE_INPUT, THRESHOLD
from .source_model import AUTO, FROM_INPUT, checkpoint_input, named_by

# A choice of source_checkpoint.
BESIDE = "(the recording beside the LoRA)"
CACHE_GB = 10

LOADING_INPUTS = {
    **CLIP_INPUT,
    **MODE_INPUT,
    "threshold": ("FLOAT", {**THRESHOLD, "advanced": True}),
    "cache_gb": (
        "INT",
        {
            "default": CACHE_GB,
            "min": 0,
            "max": 10000,
            "advanced": True,
            "tooltip": "What was moved is kept in output/loras/prolora_moved, so that the graph "
            "starts in a second the next time. Beyond this many GB, what was not used for longest "
            "goes first. 0 keeps nothing.",
        },
    ),
}


def source_input():
    """The input source_checkpoint of a node without an input for a source MODEL."""
    names, options = checkpoint_input(
        "The checkpoint or diffusion model that the LoRA was trained on. It is not loaded: its "
        f"weights are read one at a time. {AUTO} takes the file that the LoRA's own header names. "
        f"{BESIDE}: NAME.recording.safetensors stands for the checkpoint.",
        AUTO,
    )
    return ([*(name for name in names if name != FROM_INPUT), BESIDE], options)


def source_path(lora: Path, source_checkpoint: str):
    """The file of the source, and the doubts about it.

    Raises:
        ProLoRAError: it is not there, or the LoRA does not name it.
    """
    if source_checkpoint != AUTO:
        return host.model_path(source_checkpoint), ()
    name, doubts = named_by(host.read_lora(lora))
    return host.model_path(name), doubts
