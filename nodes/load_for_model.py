"""Load LoRA for Model: loads a LoRA, moves it to the MODEL and applies it, in one node."""

from ..prolora.transfer.settings import DEFAULTS, TransferSettings
from . import host
from .files_seen import ReadsFiles
from .loading import Loader
from .loading_inputs import CACHE_GB, LOADING_INPUTS, source_input
from .shared_inputs import STRENGTH_INPUTS

NOTHING = "Both strengths are 0: nothing was loaded."


class LoadLoraForModel(ReadsFiles):
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = (
        "load LoRA",
        "LoRA loader",
        "move LoRA",
        "port LoRA",
        "convert LoRA",
        "migrate LoRA",
        "retarget LoRA",
        "another checkpoint",
        "base model",
        "SSD-1B",
    )
    DESCRIPTION = (
        "Loads a LoRA that was trained on another checkpoint of the family: moves it to this "
        "model and applies it. What was moved is kept, so that it takes a while only once."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "summary")
    OUTPUT_TOOLTIPS = (
        "The model with the LoRA.",
        "The text encoder with the LoRA.",
        "What was moved, what stayed behind, and why.",
    )
    FUNCTION = "load"

    def __init__(self):
        self.kept = host.kept()

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "model": (
                    "MODEL",
                    {
                        "tooltip": "The model to use the LoRA with. LoRAs that patch it do not "
                        "count for the transfer, and stay."
                    },
                ),
                "lora_name": (
                    host.lora_names(),
                    {"tooltip": "The LoRA to move, from the loras folder."},
                ),
                "source_checkpoint": source_input(),
                **STRENGTH_INPUTS,
            },
            "optional": LOADING_INPUTS,
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def load(
        self,
        model,
        lora_name,
        source_checkpoint,
        strength_model,
        strength_clip,
        clip=None,
        mode=DEFAULTS.mode,
        threshold=DEFAULTS.threshold,
        cache_gb=CACHE_GB,
        unique_id="",
        prompt=None,
    ):
        if strength_model == 0 and (clip is None or strength_clip == 0):
            return {"ui": {"text": [NOTHING]}, "result": (model, clip, NOTHING)}
        settings = TransferSettings(mode=mode, threshold=threshold, device=host.device())
        given = model, clip, source_checkpoint, settings, cache_gb, self.kept
        (found,) = Loader(*given, unique_id, prompt).load([lora_name])
        summary = host.say(found.summary, bool(found.warning))
        patched = host.apply_lora(model, clip, found.lora, strength_model, strength_clip)
        return {"ui": {"text": [summary]}, "result": (*patched, summary)}
