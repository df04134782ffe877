"""The files that a user names: which are checkpoints, which are LoRAs."""

from collections.abc import Sequence
from pathlib import Path

from .adapters.peft_folder import is_adapter_folder, refuse_without_weights, weights_in
from .adapters.suffixes import split_key
from .errors import ProLoRAError
from .files.safetensors import open_safetensors
from .models.key_map import load_checkpoint
from .models.model import Model


def load_pair(source: Path, target: Path) -> tuple[Model, Model]:
    """The two checkpoints of a job; only their headers are read.

    Raises:
        ProLoRAError: one is a LoRA or cannot be read, or both are the same.
    """
    models = checkpoint(source), checkpoint(target)
    if source.samefile(target):
        raise ProLoRAError(
            f"{source} is named for both checkpoints, and is no different from itself. Name two."
        )
    return models


def checkpoint(path: Path) -> Model:
    """A checkpoint, of which only the header is read.

    Raises:
        ProLoRAError: it is a LoRA, or cannot be read.
    """
    if is_lora(header(path)[0]):
        raise ProLoRAError(f"{path.name} is a LoRA, not a checkpoint. Choose a checkpoint.")
    return load_checkpoint(path)


def is_lora(keys: Sequence[str]) -> bool:
    return bool(keys) and 2 * sum(split_key(key) is not None for key in keys) >= len(keys)


def header(path: Path) -> tuple[list[str], dict[str, str]]:
    """Keys and metadata of a safetensors file, or of the adapter in a folder of PEFT.

    None of another folder or of a GGUF file.
    """
    if is_adapter_folder(path):
        refuse_without_weights(path)
    elif path.is_dir() or path.suffix.lower() == ".gguf":
        return [], {}
    file = open_safetensors(weights_in(path))
    return file.keys(), file.metadata() or {}
