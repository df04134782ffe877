"""Everything that the pack asks of ComfyUI, by subject. Only this folder imports ComfyUI.

It works with the releases from June 2024 to August 2026. A branch between them says which one
needs it.
"""

from .conditioning import conditioning_of, prompts_of
from .files import lora_names, lora_path, model_names, model_path, output_path, read_lora
from .loaded_model import file_behind, model_from_graph
from .network import network_of
from .sampling import latent_format, levels, sample, samplers, schedulers
from .source_file import model_from_file
from .text_encoder import text_network_of
from .training import trainable
from .work import Progress, apply_lora, device, make_room, show

__all__ = [
    "Progress",
    "apply_lora",
    "conditioning_of",
    "device",
    "file_behind",
    "latent_format",
    "levels",
    "lora_names",
    "lora_path",
    "make_room",
    "model_from_file",
    "model_from_graph",
    "model_names",
    "model_path",
    "network_of",
    "output_path",
    "prompts_of",
    "read_lora",
    "sample",
    "samplers",
    "schedulers",
    "show",
    "text_network_of",
    "trainable",
]
