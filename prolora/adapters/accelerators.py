"""LoRAs that make a model need fewer steps: they want sampler settings of their own."""

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Accelerator:
    """What it is called, and a pattern for file names and titles (in lower case, words apart)."""

    name: str
    pattern: str


# What is a word like others needs a model or a number of steps beside it.
_MODEL = r"\b(sd|sdxl|sd15|sd3|flux|qwen|wan|hunyuan|ltx|chroma)\w*\b"
# The first row that matches wins.
ACCELERATORS = (
    Accelerator("LCM", r"\b(animate)?lcm\b|latent consistency"),
    Accelerator("TCD", r"\btcd\b|trajectory consistency"),
    Accelerator("PCM", r"\bpcm\b|phased consistency"),
    Accelerator("TDD", r"\btdd\b"),
    Accelerator("Hyper-SD", r"\bhyper ?(sd|flux|sdxl|sd15|sd3)\w*\b"),
    Accelerator("DMD2", r"\bdmd ?2\b|\bdmd\b.*\b\d+ ?steps?\b"),
    Accelerator("LightX2V", r"lightx2v|step distill"),
    Accelerator("Lightning", rf"{_MODEL}.*\blightning\b|\blightning\b.*\b\d+ ?steps?\b"),
    Accelerator("self-forcing", r"self ?forcing"),
    Accelerator("CausVid", r"causvid"),
    Accelerator("AccVideo", r"\bacc ?vid(eo)?\b"),
    Accelerator("FastWan", r"fast ?(wan|hunyuan|video)"),
    Accelerator("rCM", r"\brcm\b"),
    Accelerator("PeRFlow", r"perflow"),
    Accelerator("Flash", r"\bflash ?(sd|pixart|diffusion)\w*"),
    Accelerator("Turbo", rf"{_MODEL}.*\bturbo\b|\bturbo\b.*\b(alpha|\d+ ?steps?)\b"),
)
# Base models that have such a word in their names: a LoRA for one of them is no accelerator.
_BASES = (
    r"z ?image ?turbo|\bsd(xl)? ?turbo|sd ?3 ?5? ?(large )?turbo|"
    r"(juggernaut|dreamshaper|realvis\w*)( ?xl)?( v?\d+)* ?(turbo|lightning)"
)
# Where a header says what a LoRA is called.
_TITLES = ("modelspec.title", "ss_output_name", "name", "title")
ACCELERATOR_KEY = "prolora_accelerator"  # of a header


def accelerator_of(file_name: str, metadata: Mapping[str, str]) -> str:
    """The kind of accelerator that a LoRA is by its name and its header, or ""."""
    if ACCELERATOR_KEY in metadata:
        return metadata[ACCELERATOR_KEY]
    for title in (file_name, *(metadata.get(key, "") for key in _TITLES)):
        words = re.sub(r"[^a-z0-9]+", " ", title.lower().removesuffix(".safetensors"))
        words = re.sub(_BASES, " ", words)
        for accelerator in ACCELERATORS:
            if re.search(accelerator.pattern, words):
                return accelerator.name
    return ""


def advise_refining(accelerator: str) -> str:
    """How an accelerator is refined: its speed is wanted, not what the source draws with it."""
    return (
        f"an accelerator ({accelerator}) is best refined with own at 1: with less, the target "
        "learns the source's pictures with it"
    )


def describe(accelerator: str) -> str:
    """What the user of an accelerator must know."""
    return (
        f"an accelerator ({accelerator}), by its name: on the target, too, it wants the few steps, "
        "the low CFG and the sampler that its page gives"
    )
