"""Apply Transferred LoRA: patches a MODEL (and CLIP) as ComfyUI's own LoRA loader does."""

from . import host
from .shared_inputs import LORA_FROM, STRENGTH_INPUTS


class ApplyTransferredLora:
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = ("use LoRA", "apply LoRA", "LoRA strength")
    DESCRIPTION = "Applies a transferred LoRA, as Load LoRA applies a file."
    RETURN_TYPES = ("MODEL", "CLIP")
    OUTPUT_TOOLTIPS = ("The model with the LoRA.", "The text encoder with the LoRA.")
    FUNCTION = "apply"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": ("MODEL", {"tooltip": "The model that the LoRA was moved to."}),
                "lora": ("LORA_MODEL", {"tooltip": LORA_FROM}),
                **STRENGTH_INPUTS,
            },
            "optional": {
                "clip": (
                    "CLIP",
                    {"tooltip": "The text encoder; needed if the LoRA has modules for it."},
                ),
            },
        }

    def apply(self, model, lora, strength_model, strength_clip, clip=None):
        if strength_model == 0 and (clip is None or strength_clip == 0):
            return (model, clip)
        return host.apply_lora(model, clip, lora, strength_model, strength_clip)
