"""Everything that the pack asks of ComfyUI, by subject. Only this folder imports ComfyUI.

It works with the releases from June 2024 to August 2026. A branch between them says which one
needs it.
"""

from .catalogue import CATEGORY
from .conditioning import conditioning_of, prompts_of
from .failures import guarded, make_showable, memory_explained
from .files import (
    cache_folder,
    cached_name,
    lora_names,
    lora_path,
    model_names,
    model_path,
    model_paths,
    read_lora,
    recording_beside,
    recording_for,
    recording_names,
    recording_path,
    saved_to,
    write_new,
)
from .fingerprint import Untold, conduct, fingerprint
from .kept import kept
from .kinds import KINDS
from .lists import zipped
from .loaded_model import (
    clip_without_loras,
    file_behind,
    is_one,
    kept_as,
    model_from_graph,
    path_behind,
    without_loras,
)
from .network import network_of
from .pictures import as_image, preview
from .progress import Progress
from .sampling import (
    latent_format,
    latent_shape,
    levels,
    one_latent,
    sample,
    samplers,
    schedulers,
)
from .source_file import model_from_file
from .text_encoder import encode, text_network_of
from .training import trainable
from .work import apply_lora, device, make_room, say

__all__ = [
    "CATEGORY",
    "KINDS",
    "Progress",
    "Untold",
    "apply_lora",
    "as_image",
    "cache_folder",
    "cached_name",
    "clip_without_loras",
    "conditioning_of",
    "conduct",
    "device",
    "encode",
    "file_behind",
    "fingerprint",
    "guarded",
    "is_one",
    "kept",
    "kept_as",
    "latent_format",
    "latent_shape",
    "levels",
    "lora_names",
    "lora_path",
    "make_room",
    "make_showable",
    "memory_explained",
    "model_from_file",
    "model_from_graph",
    "model_names",
    "model_path",
    "model_paths",
    "network_of",
    "one_latent",
    "path_behind",
    "preview",
    "prompts_of",
    "read_lora",
    "recording_beside",
    "recording_for",
    "recording_names",
    "recording_path",
    "sample",
    "samplers",
    "saved_to",
    "say",
    "schedulers",
    "text_network_of",
    "trainable",
    "without_loras",
    "write_new",
    "zipped",
]
