"""What LoRA files call the modules of text encoders.

ComfyUI has every encoder under a name of its own (`clip_l.transformer.`, `t5xxl.transformer.`),
with the module names of the transformers library; layout.py brings a file's keys into that form.
"""

import re
from collections.abc import Collection, Iterator

_CLIP_LAYER = re.compile(
    r"(clip_[lgh])\.transformer\.(text_model\.encoder\.layers\.\d+\."
    r"(?:self_attn\.[qkv]_proj|self_attn\.out_proj|mlp\.fc[12]))"
)
# By the encoder; `{dotted}` is the module within it, `{flat}` has underscores for the dots.
_FIRST = ("lora_te_{flat}", "lora_te1_{flat}", "text_encoder.{dotted}")
_SECOND = ("lora_te2_{flat}", "text_encoder_2.{dotted}")
# CLIP-G without CLIP-L: of SDXL's refiner, of Stable Cascade; or the second of a folder, alone.
_ALONE = ("lora_te_{flat}", "text_encoder.{dotted}", "lora_prior_te_{flat}", *_SECOND)
_PROJECTIONS = {
    "clip_g.transformer.text_projection": ("lora_prior_te_{flat}", "lora_te2_{flat}"),
    "clip_l.transformer.text_projection": ("lora_te1_{flat}",),
}


def text_encoder_names(modules: Collection[str]) -> Iterator[tuple[str, str]]:
    """Name in a LoRA file, module in ComfyUI: in the order in which ComfyUI has them.

    Args:
        modules: of all text encoders of a model, as ComfyUI calls them.
    """
    layers = {module: _CLIP_LAYER.fullmatch(module) for module in modules}
    clips = {match[1] for match in layers.values() if match is not None}
    for module in modules:
        yield f"text_encoders.{module}", module
        if not module.startswith("clip_"):
            yield f"text_encoders.{module.partition('.')[2]}", module
    for module, match in layers.items():
        if match is not None:
            second = _SECOND if "clip_l" in clips else _ALONE
            yield from _spelled(second if match[1] == "clip_g" else _FIRST, match[2], module)
    encoders = {module.partition(".")[0] for module in modules}
    starts = {
        "t5xxl.transformer.": _t5(clips),
        "hydit_clip.transformer.bert.": ("lora_te1_{flat}",),
    }
    if len(encoders) == 1:
        starts[f"{min(encoders)}.transformer.model."] = ("lora_te_{flat}",)
    for start, spellings in starts.items():
        for module in modules:
            if module.startswith(start):
                yield from _spelled(spellings, module.removeprefix(start), module)
    for module, spellings in _PROJECTIONS.items():
        if module in modules:
            yield from _spelled(spellings, "text_projection", module)


def _t5(clips: Collection[str]) -> tuple[str, ...]:
    """T5 is numbered after the CLIPs that are there; beside CLIP-L alone it has two numbers."""
    number = 1 + ("clip_l" in clips) + ("clip_g" in clips)
    numbers = (2, 3) if set(clips) & {"clip_l", "clip_g"} == {"clip_l"} else (number,)
    return tuple(f"lora_te{number}_{{flat}}" for number in numbers)


def _spelled(spellings: tuple[str, ...], name: str, module: str) -> Iterator[tuple[str, str]]:
    for spelling in spellings:
        yield spelling.format(dotted=name, flat=name.replace(".", "_")), module
