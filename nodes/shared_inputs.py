"""The inputs that several nodes have."""

from ..prolora.transfer.modes import MODES, describe_modes
from ..prolora.transfer.settings import DEFAULTS

_STRENGTH = {"default": 1.0, "min": -100.0, "max": 100.0, "step": 0.01}

# What an input for a LORA_MODEL takes.
LORA_FROM = "From ProLoRA Transfer, Refine Transferred LoRA or Extract Difference as LoRA."

STRENGTH_INPUTS = {
    "strength_model": (
        "FLOAT",
        {**_STRENGTH, "tooltip": "How strongly to change the model; may be negative."},
    ),
    "strength_clip": (
        "FLOAT",
        {**_STRENGTH, "tooltip": "How strongly to change the text encoder; may be negative."},
    ),
}

CLIP_INPUT = {
    "clip": (
        "CLIP",
        {"tooltip": "The text encoder; connect it to move the LoRA's modules for it too."},
    ),
}

MODE_INPUT = {
    "mode": (
        list(MODES),
        {"default": DEFAULTS.mode, "advanced": True, "tooltip": describe_modes()},
    ),
}

THRESHOLD = {
    "default": DEFAULTS.threshold,
    "min": 0.0,
    "max": 1.0,
    "step": 0.01,
    "tooltip": "A module is left out if the similarity of its two weights is below this. 0 moves "
    "every module.",
}

ENERGY_INPUT = {
    "subspace_energy": (
        "FLOAT",
        {
            "default": DEFAULTS.subspace_energy,
            "min": 0.01,
            "max": 0.999,
            "step": 0.01,
            "advanced": True,
            "tooltip": "Share of a weight's energy that its leading subspace holds; the rest is "
            "its null space.",
        },
    ),
}

# The blocks that a user pairs by hand.
PAIRS_INPUT = {
    "pairs": (
        "STRING",
        {
            "default": "",
            "multiline": True,
            "advanced": True,
            "tooltip": "Which block of this model takes the LoRA of which block of the source, as "
            'JSON: {"blocks.2": "blocks.3"}. ProLoRA Similarity writes all pairs in this form. '
            "Blocks that are not named here are paired by name where both models have as many, "
            "else by similarity.",
        },
    ),
}

SHARE_INPUT = {
    "unserved": (
        "FLOAT",
        {
            "default": DEFAULTS.unserved,
            "min": 0.0,
            "max": 1.0,
            "step": 0.05,
            "advanced": True,
            "tooltip": "For blocks of this model that no block of the source serves (a deepened "
            "model has some): the share that they get of what goes to their neighbours, where the "
            "threshold lets it pass. 0 leaves them as they are.",
        },
    ),
}
