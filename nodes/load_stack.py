"""Load LoRA Stack for Model: moves a whole stack of LoRAs to the MODEL and applies it."""

from ..prolora.adapters.lora_list import ListedLora, LoraNames, names_in, parse_lora_list
from ..prolora.errors import ProLoRAError
from ..prolora.transfer.settings import DEFAULTS, TransferSettings
from . import host
from .loading import Loader
from .loading_inputs import CACHE_GB, LOADING_INPUTS, source_input, stamps

NOTHING = "The stack is empty: nothing was loaded."
# What packs of LoRA stacks have in an empty place.
_NONE = "None"


class LoadLoraStackForModel:
    CATEGORY = "loaders/ProLoRA"
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
                        "tooltip": "A LoRA a line: its name, then its strength, then that for the "
                        "text encoder, if it is another one. <lora:name:strength> is read too. A "
                        "line that begins with # is left out.",
                    },
                ),
            },
            "optional": {
                "clip": LOADING_INPUTS["clip"],
                "lora_stack": (
                    "LORA_STACK",
                    {"tooltip": "A stack of another pack's nodes; its LoRAs come first."},
                ),
                **LOADING_INPUTS,
            },
            "hidden": {"unique_id": "UNIQUE_ID", "prompt": "PROMPT"},
        }

    @classmethod
    def IS_CHANGED(cls, loras="", source_checkpoint=None, unique_id="", prompt=None, **_):
        """The stack is not known before its nodes ran: the names that were chosen in them are."""
        names = LoraNames(host.lora_names())
        texts = [loras or "", *host.texts_behind(prompt or {}, unique_id, "lora_stack")]
        found = [name for text in texts for name in names_in(text, names)]
        return stamps(found, source_checkpoint)

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
        needs_files = _is_connected(prompt or {}, unique_id, output=2)
        if wanted and needs_files and not cache_gb:
            raise ProLoRAError(
                "The output lora_stack names files, and with a cache_gb of 0 there are none. "
                "Choose at least 1, or use the outputs MODEL and CLIP, which need no files."
            )
        settings = TransferSettings(mode=mode, threshold=threshold, device=host.device())
        loader = Loader(model, clip, source_checkpoint, settings, cache_gb, unique_id, prompt)
        found = []
        for lora in wanted:
            found.append(_load(loader, lora.name, [one.path for one in found if one.path]))
            if needs_files and found[-1].path is None:
                raise ProLoRAError(f"The output lora_stack has no file. {found[-1].summary}")
        return self.result(model, clip, wanted, found, unique_id)

    @staticmethod
    def result(model, clip, wanted, found, unique_id):
        summary = "\n".join(one.summary for one in found) or NOTHING
        host.show(summary, unique_id, "\n".join(one.warning for one in found if one.warning))
        stack = []
        for lora, one in zip(wanted, found, strict=True):
            strengths = lora.strength_model, lora.strength_clip
            model, clip = host.apply_lora(model, clip, one.lora, *strengths)
            if one.path is not None:
                stack.append((host.cached_name(one.path), *strengths))
        return {"ui": {"text": [summary]}, "result": (model, clip, stack, summary)}


def _wanted(lora_stack, text):
    """The LoRAs of both, by the names of their files; what does nothing is passed over."""
    names = LoraNames(host.lora_names())
    given = [lora for lora in lora_stack or () if lora[0] != _NONE]
    stacked = [ListedLora(names.one(name), *strengths) for name, *strengths in given]
    wanted = [*stacked, *parse_lora_list(text, names)]
    return [lora for lora in wanted if lora.strength_model or lora.strength_clip]


def _load(loader, name, in_use):
    try:
        return loader.load(name, in_use)
    except ProLoRAError as error:
        raise ProLoRAError(f"{name}: {error}") from error


def _is_connected(prompt, node_id, output):
    links = (value for node in prompt.values() for value in node.get("inputs", {}).values())
    return any(value == [node_id, output] for value in links)
