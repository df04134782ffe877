"""Everything that the pack asks of ComfyUI, by subject. Only this folder imports ComfyUI.

It works with the releases from June 2024 to August 2026. A branch between them says which one
needs it.
"""

from .files import lora_names, lora_path, model_names, model_path, output_path, read_lora
from .loaded_model import file_behind, model_from_graph
from .source_file import model_from_file
from .work import Progress, apply_lora, device, make_room, show

__all__ = [
    "Progress",
    "apply_lora",
    "device",
    "file_behind",
    "lora_names",
    "lora_path",
    "make_room",
    "model_from_file",
    "model_from_graph",
    "model_names",
    "model_path",
    "output_path",
    "read_lora",
    "show",
]
