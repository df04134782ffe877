"""Adapter files: keys in, adapters out, and back. One file a family."""

from .adapter import Adapter
from .difference import FullDifference, VectorPatch
from .file import AdapterFile, Part, name_of, parse_adapter_file, read_adapter_file
from .lora import LoraAdapter
from .peft_config import read_peft_config
from .writing import FILE_DTYPES, lora_state_dict

__all__ = [
    "FILE_DTYPES",
    "Adapter",
    "AdapterFile",
    "FullDifference",
    "LoraAdapter",
    "Part",
    "VectorPatch",
    "lora_state_dict",
    "name_of",
    "parse_adapter_file",
    "read_adapter_file",
    "read_peft_config",
]
