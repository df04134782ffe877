"""What the nodes ask for that load a LoRA for a MODEL in one go, and the files that it names."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..prolora.adapters.peft_config import config_beside
from ..prolora.errors import ProLoRAError
from ..prolora.files.digests import stamp
from ..prolora.transfer.modes import MODES, describe_modes
from ..prolora.transfer.settings import DEFAULTS
from . import host
from .source_model import FROM_INPUT, checkpoint_input

# A choice of source_checkpoint.
BESIDE = "(the recording beside the LoRA)"
CACHE_GB = 10

LOADING_INPUTS = {
    "clip": (
        "CLIP",
        {"tooltip": "The text encoder; connect it to move the LoRA's modules for it too."},
    ),
    "mode": (
        list(MODES),
        {"default": DEFAULTS.mode, "advanced": True, "tooltip": describe_modes()},
    ),
    "threshold": (
        "FLOAT",
        {
            "default": DEFAULTS.threshold,
            "min": 0.0,
            "max": 1.0,
            "step": 0.01,
            "advanced": True,
            "tooltip": "A module is left out if the similarity of its two weights is below this. "
            "0 moves every module.",
        },
    ),
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
        "The checkpoint or diffusion model the LoRA was trained on. It is not loaded: its weights "
        f"are read one at a time. {BESIDE}: NAME.recording.safetensors stands for it."
    )
    return ([*(name for name in names if name != FROM_INPUT), BESIDE], options)


def files_of(lora: Path) -> list[Path]:
    """A LoRA's file and what lies beside it and belongs to it."""
    beside = (config_beside(lora), host.recording_beside(lora))
    return [lora, *(path for path in beside if path is not None)]


def stamps(lora_names: Iterable[str], source_checkpoint) -> str:
    """What changes when one of the files does, for IS_CHANGED."""
    paths = []
    with suppress(ProLoRAError):  # the node says it better
        paths.append(host.model_path(source_checkpoint))
    for name in lora_names:
        with suppress(ProLoRAError):
            paths += files_of(host.lora_path(name))
    found = []
    for path in paths:
        with suppress(OSError):
            found.append(f"{path} {stamp(path)}")
    return "\n".join(found)
