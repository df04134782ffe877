"""Load LoRA Stack for Model: moves a whole stack of LoRAs to the MODEL and applies it."""

import math
from dataclasses import replace

from ..prolora.adapters.lora_list import ListedLora, LoraNames, parse_lora_list
from ..prolora.errors import ProLoRAError, one_line
from ..prolora.transfer.settings import DEFAULTS, TransferSettings
from . import host
from .files_seen import ReadsFiles
from .loading import Loader
from .loading_inputs import CACHE_GB, LOADING_INPUTS, source_input
from .shared_inputs import CLIP_INPUT

NOTHING = "The stack is empty: nothing was loaded."
# What packs of LoRA stacks have in an empty place.
_NONE = "None"


class LoadLoraStackForModel(ReadsFiles):
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = (
        "LoRA stack",
        "LoRA stacker",
        "LoRA list",
        "several LoRAs",
        "LoRA loader",
        "move LoRA",
        "base model",
    )
    DESCRIPTION = (
        "Loads LoRAs that were trained on another checkpoint of the family: moves all of them to "
        "this model and applies them. What was moved is kept, so that it takes a while only once."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "LORA_STACK", "STRING")
    RETURN_NAMES = ("MODEL", "CLIP", "lora_stack", "summary")
    OUTPUT_TOOLTIPS = (
        "The model with the LoRAs.",
        "The text encoder with the LoRAs.",
        "The moved LoRAs, for a node of another pack that applies a stack; give it the model "
        "without them.",
        "What was moved of each, what stayed behind, and why.",
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
                        "tooltip": "The model to use the LoRAs with. LoRAs that patch it do not "
                        "count for the transfer, and stay."
                    },
                ),
                "source_checkpoint": source_input(),
                "loras": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "tooltip": "One LoRA a line: its name, then its strength, then the "
                        "strength for the text encoder where that differs. "
                        "<lora:name:strength> is read too. A line that begins with # is left out.",
                    },
                ),
            },
            "optional": {
                **CLIP_INPUT,
                "lora_stack": (
                    "LORA_STACK",
                    {"tooltip": "A stack of another pack's nodes; its LoRAs come first."},
                ),
                **LOADING_INPUTS,
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    def load(
        self,
        model,
        source_checkpoint,
        loras,
        clip=None,
        lora_stack=None,
        mode=DEFAULTS.mode,
        threshold=DEFAULTS.threshold,
        cache_gb=CACHE_GB,
        unique_id="",
        prompt=None,
    ):
        wanted = _wanted(lora_stack, loras)
        settings = TransferSettings(mode=mode, threshold=threshold, device=host.device())
        given = model, clip, source_checkpoint, settings, cache_gb, self.kept
        found = Loader(*given, unique_id, prompt).load([lora.name for lora in wanted])
        told = [
            (one, f"{lora.name}: {one.summary}") for lora, one in zip(wanted, found, strict=True)
        ]
        told.sort(key=lambda both: not both[0].warning)  # what the user must hear first
        summary = "\n\n".join(text for _, text in told) or NOTHING
        summary = host.say(summary, any(one.warning for one in found))
        stack = []
        for lora, one in zip(wanted, found, strict=True):
            strengths = lora.strength_model, lora.strength_clip
            model, clip = host.apply_lora(model, clip, one.lora, *strengths)
            stack.append((one.path and host.cached_name(one.path), *strengths))
        if any(name is None for name, *_ in stack):
            stack = NoFiles()
        return {"ui": {"text": [summary]}, "result": (model, clip, stack, summary)}


class NoFiles:
    """A LORA_STACK of moved LoRAs that are in no file: a node that uses it is stopped."""

    def _stop(self, *_):
        raise ProLoRAError(
            "The lora_stack of Load LoRA Stack for Model names files, and there are none: its "
            "cache_gb is 0, or its summary says why they were not kept. Choose a cache_gb of at "
            "least 1, or use its outputs MODEL and CLIP, which need no files."
        )

    __iter__ = __len__ = __bool__ = __getitem__ = _stop


def _entry(entry):
    """One of another pack's stack."""
    name, *strengths = entry if isinstance(entry, list | tuple) and entry else (None,)
    numbers = [n for n in strengths if isinstance(n, int | float) and math.isfinite(n)]
    if not isinstance(name, str) or len(strengths) > 2 or len(numbers) < max(len(strengths), 1):
        raise ProLoRAError(
            f"The lora_stack holds {one_line(repr(entry))}, and should hold the name of a LoRA and "
            "two strengths. Connect a stack that another node can apply."
        )
    return ListedLora(name, *numbers)


def _wanted(lora_stack, text):
    """The LoRAs of both, by the names of their files; what does nothing is passed over."""
    names = LoraNames(host.lora_names())
    given = [_entry(entry) for entry in lora_stack or ()]
    stacked = [replace(lora, name=names.one(lora.name)) for lora in given if lora.name != _NONE]
    wanted = [*stacked, *parse_lora_list(text, names)]
    return [lora for lora in wanted if lora.strength_model or lora.strength_clip]
