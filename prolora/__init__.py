"""ProLoRA: moves a LoRA from the checkpoint it was trained on to another, from weights alone.

The core of the ComfyUI node pack, and a library of its own: it imports torch, safetensors, numpy
and scipy, never the host.
"""

from ._version import __version__
from .adapters import lora_state_dict, parse_adapter_file, read_adapter_file
from .errors import ProLoRAError
from .models.key_map import load_checkpoint
from .transfer.job import transfer_lora
from .transfer.settings import TransferSettings

__all__ = [
    "ProLoRAError",
    "TransferSettings",
    "__version__",
    "load_checkpoint",
    "lora_state_dict",
    "parse_adapter_file",
    "read_adapter_file",
    "transfer_lora",
]
