"""The two nodes: names in, pictures out. The sampler between them is the host's own."""

from typing import Any

import torch
from torch.nn.functional import interpolate

from .code import PatchCode
from .names import parse_names
from .prompt import encode_names

CATEGORY = "ProLoRA demo"
DEFAULT_NAMES = "sunglasses, lion_face, penguin, butterfly, umbrella, camera"


class EmojiPrompt:
    """Emoji names to a conditioning with one row per name."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Emoji names for the demo's models. Give the empty latent as many rows as names."
    RETURN_TYPES = ("CONDITIONING", "INT")
    RETURN_NAMES = ("conditioning", "count")
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        tooltip = "Short names with commas between; the pictures come in this order."
        names = ("STRING", {"default": DEFAULT_NAMES, "multiline": True, "tooltip": tooltip})
        return {"required": {"names": names}}

    def encode(self, names: str) -> tuple[list, int]:
        context, pooled = encode_names(parse_names(names))
        return [[context, {"pooled_output": pooled}]], len(context)


class EmojiDecode:
    """Latents of the demo's models to pictures [N, H, W, 3]."""

    CATEGORY = CATEGORY
    DESCRIPTION = "Turns the latents of the demo's models into pictures of 32 pixels, enlarged."
    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        enlarge = {"default": 4, "min": 1, "max": 32, "tooltip": "Times 32 pixels, bicubic."}
        latent = {"tooltip": "What the sampler returns."}
        return {"required": {"samples": ("LATENT", latent), "enlarge": ("INT", enlarge)}}

    def decode(self, samples: dict[str, torch.Tensor], enlarge: int) -> tuple[torch.Tensor]:
        pictures = PatchCode.load().decode(samples["samples"].float().cpu())
        large = interpolate(pictures, scale_factor=enlarge, mode="bicubic").clamp(0, 1)
        return (large.movedim(1, -1),)
