"""Encode Prompts: many prompts at once, to record a LoRA with."""

import re

from ..prolora.errors import ProLoRAError, one_line
from . import host

TRIGGER = "TRIGGER"
_LONGEST = 5_000  # letters of a prompt
PROMPTS = (
    "TRIGGER, portrait of an old fisherman with a pipe",
    "TRIGGER, a young woman laughing in the rain",
    "TRIGGER, a cat asleep on a windowsill",
    "TRIGGER, two horses galloping along a beach",
    "TRIGGER, a lighthouse on a cliff at dusk",
    "TRIGGER, a narrow street in an old town, people with umbrellas",
    "TRIGGER, a mountain lake in autumn",
    "TRIGGER, a bowl of fruit on a wooden table",
    "TRIGGER, a red sports car in front of a garage",
    "TRIGGER, a spaceship above a desert planet",
    "TRIGGER, close-up of a dragonfly on a leaf",
    "TRIGGER, the inside of a library with tall shelves",
)


class EncodePrompts:
    CATEGORY = host.CATEGORY
    SEARCH_ALIASES = ("prompts", "many prompts", "prompt list", "trigger words")
    DESCRIPTION = "Encodes one prompt a line, for Record Source LoRA."
    RETURN_TYPES = ("CONDITIONING",)
    OUTPUT_TOOLTIPS = ("One entry for each line. It is not for a KSampler, which would mix them.",)
    FUNCTION = "encode"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The source's text encoder, without the LoRA."}),
                "text": (
                    "STRING",
                    {
                        "default": "\n".join(PROMPTS),
                        "multiline": True,
                        "tooltip": "One prompt a line. Take many different subjects: what is "
                        "recorded is what the LoRA does to them, and with one subject alone it "
                        "would be learnt for that one. TRIGGER stands for the trigger words.",
                    },
                ),
            },
            "optional": {
                "trigger_words": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "The words that the LoRA was trained with; they take the place "
                        "of TRIGGER in every line. Without them the LoRA may do little, and little "
                        "is recorded. Leave it empty if the LoRA has none.",
                    },
                ),
            },
        }

    def encode(self, clip, text, trigger_words=""):
        lines = [_with_trigger(line, trigger_words.strip()) for line in text.splitlines()]
        lines = [line for line in lines if line]
        if not lines:
            raise ProLoRAError("There is no prompt. Write one a line.")
        return (host.encode(clip, lines, host.Progress()),)


def _with_trigger(line, words):
    if len(line) + line.count(TRIGGER) * len(words) > _LONGEST:
        raise ProLoRAError(
            f"A prompt has more than {_LONGEST} letters: {one_line(line)} Write "
            "shorter ones, one a line."
        )
    if words:
        return line.replace(TRIGGER, words).strip()
    return re.sub(rf"{TRIGGER}[,.:]?\s*", "", line).strip()
