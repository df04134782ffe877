"""ProLoRA: moves a LoRA from the checkpoint it was trained on to another, from weights alone.

The core of the ComfyUI node pack, and a library of its own: it imports torch, safetensors, numpy
and scipy, never the host.
"""

from importlib import import_module
from typing import Any

from ._version import __version__

# What the library gives, and the module that has it.
_HOMES = {
    "ProLoRAError": "errors",
    "TransferSettings": "transfer.settings",
    "load_checkpoint": "models.key_map",
    "lora_state_dict": "adapters",
    "parse_adapter_file": "adapters",
    "read_adapter_file": "adapters",
    "transfer_lora": "transfer.job",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    """Imports what is asked for, then: torch takes seconds, and may be missing (command_line/)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
