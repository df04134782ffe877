"""What the nodes ask for that load a LoRA for a MODEL in one go, and the files that it names."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..prolora.adapters.peft_config import CONFIG_NAME
from ..prolora.errors import ProLoRAError
from ..prolora.transfer.modes import MODES, describe_modes
from ..prolora.transfer.settings import DEFAULTS
from . import host
from .source_model import AUTO, FROM_INPUT, checkpoint_input, named_by

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


def files_behind(lora_names: Iterable[str], source_checkpoint) -> list[Path]:
    """The files that LoRAs are moved by, there or not, as far as they can be found."""
    found: list[Path] = []
    for name in lora_names:
        with suppress(ProLoRAError):
            lora = host.lora_path(name)
            found += [lora, lora.with_name(CONFIG_NAME), host.recording_for(lora)]
            found.append(source_path(lora, source_checkpoint)[0])
    return found
