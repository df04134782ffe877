"""Other spellings of a module's name: what tools write and no key map lists.

A key map (the host's, or key_map.py's) has every name that ComfyUI loads. Some tools write others:
SimpleTuner `transformer.base_model.model.X`, DiffSynth `pipe.dit.X` or a bare `X`, musubi-tuner
`lora_unet_X` where the map has `diffusion_model.X`, diffusers `unet.X.to_q` where it has
`unet.X.processor.to_q`. Two names that differ in nothing but such habits have one canonical name.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TypeVar

Place = TypeVar("Place")

# Which model a name is of, by how it begins; what none of them fits is of the diffusion model.
_DIFFUSION_MODEL = (
    r"(model\.)?diffusion_model\.|transformer\.|unet\.|pipe\.(dit|unet)\.|dit\.|"
    r"lora_unet__?|lora_transformer_|lora_prior_unet_|lycoris_"
)
_TEXT_ENCODERS = (
    (r"lora_te1?_|lora_prior_te_|text_encoder\.|te1\.", "te1 "),
    (r"lora_te2_|text_encoder_2\.|te2\.", "te2 "),
    (r"lora_te3_|text_encoder_3\.|te3\.", "te3 "),
    (r"(text_encoders\.)?(?P<own>clip_[lgh]|t5)(xxl)?\.(transformer\.)?", "{own} "),
    (r"text_encoders\.", "te "),
)
_WRAPPERS = r"base_model\.model\.|module\."

# Within a name, dots as underscores: how tools of one architecture call the same module.
_SYNONYMS = (
    # diffusers before 0.20
    (r"_processor_to_out$", "_to_out_0"),
    (r"_processor_to_", "_to_"),
    (r"_self_attn_to_([qkv])$", r"_self_attn_\1_proj"),
    (r"_self_attn_to_out$", "_self_attn_out_proj"),
    # Wan, as diffusers has it and as its authors do
    (r"^(blocks_\d+)_attn1_to_([qkv])$", r"\1_self_attn_\2"),
    (r"^(blocks_\d+)_attn1_to_out_0$", r"\1_self_attn_o"),
    (r"^(blocks_\d+)_attn2_to_([qkv])$", r"\1_cross_attn_\2"),
    (r"^(blocks_\d+)_attn2_to_out_0$", r"\1_cross_attn_o"),
    (r"^(blocks_\d+)_attn2_add_([kv])_proj$", r"\1_cross_attn_\2_img"),
    (r"^(blocks_\d+)_ffn_net_0_proj$", r"\1_ffn_0"),
    (r"^(blocks_\d+)_ffn_net_2$", r"\1_ffn_2"),
    (r"^condition_embedder_(time|text)_embedder_linear_1$", r"\1_embedding_0"),
    (r"^condition_embedder_(time|text)_embedder_linear_2$", r"\1_embedding_2"),
    (r"^condition_embedder_time_proj$", "time_projection_1"),
)
_SIDES = tuple((re.compile(start), side) for start, side in _TEXT_ENCODERS)
_TOOLS = re.compile(f"({_DIFFUSION_MODEL}|{_WRAPPERS})*")
_WRAPPED = re.compile(f"({_WRAPPERS})*")
_RULES = tuple((re.compile(pattern), replacement) for pattern, replacement in _SYNONYMS)


def canonical_name(name: str) -> str:
    """The name that all spellings of a module's name share."""
    unwrapped = _WRAPPED.sub("", name, count=1)
    for start, label in _SIDES:
        match = start.match(unwrapped)
        if match:
            side = label.format(**match.groupdict())
            rest = _WRAPPED.sub("", unwrapped[match.end() :], count=1)
            return side + _flat(rest)
    return _flat(_TOOLS.sub("", unwrapped, count=1))


def by_canonical_name(names: Mapping[str, Place]) -> dict[str, Place]:
    """Canonical name -> place, without those that could be two."""
    found: dict[str, set[Place]] = defaultdict(set)
    for name, place in names.items():
        found[canonical_name(name)].add(place)
    return {name: places.pop() for name, places in found.items() if len(places) == 1}


def is_text_encoder(name: str) -> bool:
    """Whether a module is of a text encoder, in any spelling."""
    unwrapped = _WRAPPED.sub("", name, count=1)
    return any(start.match(unwrapped) for start, _ in _SIDES)


def _flat(name: str) -> str:
    flat = name.replace(".", "_")
    for pattern, replacement in _RULES:
        flat = pattern.sub(replacement, flat)
    return flat
