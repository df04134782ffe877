"""What the last part of a key says: which tensor of a module it is, and of which family.

Longer suffixes win. The module's own name, in front of the suffix, is the key map's business.
"""

import re

# Family -> suffix -> role. A role belongs to one family, but for alpha, which any may have.
SUFFIXES: dict[str, dict[str, str]] = {
    "LoRA": {
        # kohya/sd-scripts, LyCORIS and most of what artists have
        ".lora_up.weight": "up",
        ".lora_down.weight": "down",
        ".lora_mid.weight": "mid",
        # diffusers before 0.20
        "_lora.up.weight": "up",
        "_lora.down.weight": "down",
        ".lora.up.weight": "up",
        ".lora.down.weight": "down",
        ".lora_linear_layer.up.weight": "up",
        ".lora_linear_layer.down.weight": "down",
        # PEFT, and diffusers since
        ".lora_B.weight": "up",
        ".lora_A.weight": "down",
        ".lora_B": "up",
        ".lora_A": "down",
    },
    "LoHa": {
        **{f".hada_{part}": f"hada_{part}" for part in ("w1_a", "w1_b", "w2_a", "w2_b", "t1", "t2")}
    },
    "LoKr": {
        **{f".lokr_{part}": f"lokr_{part}" for part in ("w1", "w1_a", "w1_b", "t1")},
        **{f".lokr_{part}": f"lokr_{part}" for part in ("w2", "w2_a", "w2_b", "t2")},
        ".lokr_dim": "lokr_dim",  # AkaneTendo25's musubi-tuner
    },
    "GLoRA": {f".{part}.weight": f"glora_{part}" for part in ("a1", "a2", "b1", "b2", "bm")},
    "OFT": {
        ".oft_blocks": "oft_blocks",
        # kohya/sd-scripts for Flux: the parts of a fused weight
        **{f".oft_blocks.{part}": f"oft_blocks.{part}" for part in range(4)},
        ".rescale": "rescale",
        ".oft_R.weight": "oft_R",
        ".oft_R.scaled_oft": "scaled_oft",  # OneTrainer
        # AkaneTendo25's musubi-tuner; the first two say what the shape of oft_R says
        ".oft_block_size_metadata": "oft_block_size",
        ".oft_block_share_metadata": "oft_block_share",
        ".oft_coft_metadata": "oft_coft",
        ".coft_eps_metadata": "coft_eps",
        ".scaled_oft_metadata": "scaled_oft_metadata",
    },
    # R itself in some versions of 2023, R - I in others: they cannot be told apart.
    "the OFT of early LyCORIS": {".oft_diag": "oft_diag"},
    "BOFT": {".boft_R": "boft_R", ".boft_s": "boft_s"},
    # docs/foura.md
    "FouRA": {
        ".foura_up.weight": "foura_up",
        ".foura_down.weight": "foura_down",
        ".foura_gate": "foura_gate",
        ".foura_transform": "foura_transform",
    },
    "full difference": {".diff": "diff"},
    "IA3": {".ia3_l": "ia3_l", ".on_input": "on_input"},
    "T-LoRA": {
        ".q_layer.weight": "q_layer",
        ".p_layer.weight": "p_layer",
        ".lambda_layer": "lambda_layer",
    },
}
# Two families that one module has, and which add up to one that is not moved.
COMBINED = {frozenset({"LoKr", "OFT"}): "DoKr-OFT"}
# Beside the tensors of a family.
MAGNITUDES = {
    ".dora_scale": "dora_scale",
    ".lora_magnitude_vector": "lora_magnitude_vector",
    ".lora_magnitude_vector.weight": "lora_magnitude_vector",
    ".magnitude": "magnitude",
    # Beside an OFT, which keeps a weight's norms: what it multiplies them by, and the logarithm.
    ".dora_multiplier": "dora_multiplier",
    ".dora_log_multiplier": "dora_log_multiplier",
}
NORMS = {".initial_norm": "initial_norm"}  # of the weight that a magnitude was trained on
DIFFERENCES = {
    ".diff_b": "diff_b",
    ".set_weight": "set_weight",
    ".w_norm": "w_norm",
    ".b_norm": "b_norm",
    ".lora_B.bias": "up_bias",
    ".lora_up.bias": "up_bias",
}
SHARED = {".alpha": "alpha", ".reshape_weight": "reshape_weight"}
# Known, and not moved: suffix -> role -> why.
NOT_MOVED = {".diff_m": "diff_m"}
REASONS = {
    "diff_m": "a modulation difference (diff_m, LightX2V's for Wan), which ComfyUI does not read",
}
# Keys that begin so belong to no module: OneTrainer's embeddings, bundle_emb.<word>.<encoder>.
BUNDLED = "bundle_emb."

ROLES = {
    **{suffix: role for suffixes in SUFFIXES.values() for suffix, role in suffixes.items()},
    **MAGNITUDES,
    **NORMS,
    **DIFFERENCES,
    **SHARED,
    **NOT_MOVED,
}
FAMILY_OF = {role: family for family, table in SUFFIXES.items() for role in table.values()}

_LONGEST_FIRST = sorted(ROLES, key=len, reverse=True)
# PEFT puts the adapter's name into the key while it trains: lora_A.default.weight.
_PEFT_NAME = re.compile(
    r"\.(lora_[AB]|lora_magnitude_vector|oft_R|hada_\w+|lokr_\w+|boft_[Rs])\.([^.]+)(?=$|\.weight$|\.bias$)"
)


# How a tensor begins that is of an adapter, whatever follows.
_ADAPTERS_OWN = re.compile(r"(?P<module>.+?)\.(?P<tensor>(lora|dora|hada|lokr|oft|boft|foura)_.+)")


def split_unknown(key: str) -> tuple[str, str] | None:
    """The module and the tensor of a key that no table knows but that looks like an adapter's.

    A newer form of a family has such keys. None for any other key.
    """
    match = _ADAPTERS_OWN.fullmatch(key)
    return None if match is None else (match["module"], match["tensor"])


def split_key(key: str) -> tuple[str, str] | None:
    """The module's name and the suffix of a key, or None for a key that no table knows."""
    for suffix in _LONGEST_FIRST:
        if key.endswith(suffix) and len(key) > len(suffix):
            return key[: -len(suffix)], suffix
    unnamed = _PEFT_NAME.sub(r".\1", key)
    return None if unnamed == key else split_key(unnamed)
