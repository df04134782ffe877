"""Adapter files: keys in, adapters out, and back. One file a family."""

from .adapter import Adapter
from .file import AdapterFile, parse_adapter_file, read_adapter_file
from .lora import LoraAdapter
from .writing import FILE_DTYPES, lora_state_dict

__all__ = [
    "FILE_DTYPES",
    "Adapter",
    "AdapterFile",
    "LoraAdapter",
    "lora_state_dict",
    "parse_adapter_file",
    "read_adapter_file",
]
