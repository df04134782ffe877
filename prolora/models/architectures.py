"""Names for what a file was made for, guessed from its key names.

Used in messages and by `inspect`, never to decide how something is moved. In a graph the host's own
detection is used instead for models; a LoRA file has nothing but its module names to go by.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Architecture:
    """A family of models, and a pattern that its module names have (dots as underscores)."""

    name: str
    pattern: str


# The first row that matches wins, so the more particular ones come first.
ARCHITECTURES = (
    Architecture("Qwen-Image", r"transformer_blocks_\d+_(img|txt)_(mlp|mod)"),
    Architecture("SD3", r"joint_blocks_\d+_|transformer_blocks_\d+_attn_add_[qkv]_proj"),
    Architecture("HunyuanVideo", r"individual_token_refiner"),
    Architecture("Flux", r"double_blocks_\d+_|single_blocks_\d+_|single_transformer_blocks_\d+_"),
    Architecture("PixArt", r"blocks_\d+_cross_attn_(q|kv)_linear"),
    Architecture("Cosmos", r"blocks_\d+_(self|cross)_attn_\w+_proj|blocks_block\d+_blocks_"),
    Architecture("AuraFlow", r"(double|single)_layers_\d+_"),
    Architecture("Wan", r"blocks_\d+_(self|cross)_attn_[qkvo]_"),
    Architecture("Lumina 2 / Z-Image", r"layers_\d+_(attention_|adaLN_modulation|feed_forward_w)"),
    # Stacks of transformer blocks, where SD1.x and SD2.x have one in each place.
    Architecture(
        "SDXL",
        r"(input|output|down|up|middle|mid)_block\w*_transformer_blocks_[1-9]|lora_te2_|"
        r"conditioner_embedders_1_",
    ),
    Architecture(
        "SD1.x or SD2.x",
        r"input_blocks_\d+_|down_blocks_\d_attentions|up_blocks_\d_attentions|middle_block_|"
        r"mid_block_",
    ),
    Architecture("a CLIP text encoder", r"text_model_encoder_layers"),
)
UNKNOWN = "unknown"


def guess_architecture(names: Iterable[str]) -> str:
    """The architecture that module or weight names belong to, or "unknown"."""
    flat = "\n".join(name.replace(".", "_") + "_" for name in names)
    for architecture in ARCHITECTURES:
        if re.search(architecture.pattern, flat):
            return architecture.name
    return UNKNOWN
