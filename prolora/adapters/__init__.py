"""Adapter files: keys in, adapters out, and back. One file a family."""

from .file import AdapterFile, parse_adapter_file, read_adapter_file
from .lora import FILE_DTYPES, LoraAdapter, lora_state_dict, with_alpha_as_rank

__all__ = [
    "FILE_DTYPES",
    "AdapterFile",
    "LoraAdapter",
    "lora_state_dict",
    "parse_adapter_file",
    "read_adapter_file",
    "with_alpha_as_rank",
]
