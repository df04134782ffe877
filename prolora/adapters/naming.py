"""What the last part of a key says: which tensor of a module it is, and of which family.

Longer suffixes win. The module's own name, in front of the suffix, is the key map's business.
"""

# Suffix -> role, for LoRA on linear and convolution weights.
LORA_SUFFIXES = {
    # kohya/sd-scripts, LyCORIS and most of what artists have
    ".lora_up.weight": "up",
    ".lora_down.weight": "down",
    ".alpha": "alpha",
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
    ".lora_B.default.weight": "up",
    ".lora_A.default.weight": "down",
    ".lora_B": "up",
    ".lora_A": "down",
}

# Suffix -> family, for what is recognised but not moved yet.
OTHER_SUFFIXES = {
    ".lora_mid.weight": "LoCon with a Tucker core",
    ".dora_scale": "DoRA",
    ".lora_magnitude_vector": "DoRA",
    ".lora_magnitude_vector.weight": "DoRA",
    ".lora_magnitude_vector.default.weight": "DoRA",
    ".magnitude": "DoRA",
    ".hada_w1_a": "LoHa",
    ".hada_w1_b": "LoHa",
    ".hada_w2_a": "LoHa",
    ".hada_w2_b": "LoHa",
    ".hada_t1": "LoHa",
    ".hada_t2": "LoHa",
    ".lokr_w1": "LoKr",
    ".lokr_w2": "LoKr",
    ".lokr_w1_a": "LoKr",
    ".lokr_w1_b": "LoKr",
    ".lokr_w2_a": "LoKr",
    ".lokr_w2_b": "LoKr",
    ".lokr_t1": "LoKr",
    ".lokr_t2": "LoKr",
    ".a1.weight": "GLoRA",
    ".a2.weight": "GLoRA",
    ".b1.weight": "GLoRA",
    ".b2.weight": "GLoRA",
    ".bm.weight": "GLoRA",
    ".oft_blocks": "OFT",
    ".oft_diag": "OFT",
    ".oft_R.weight": "OFT",
    ".rescale": "OFT",
    ".boft_R": "BOFT",
    ".boft_s": "BOFT",
    ".ia3_l": "IA3",
    ".on_input": "IA3",
    ".q_layer.weight": "T-LoRA",
    ".p_layer.weight": "T-LoRA",
    ".lambda_layer": "T-LoRA",
    ".diff": "full difference",
    ".diff_b": "full difference",
    ".set_weight": "full difference",
    ".w_norm": "norm difference",
    ".b_norm": "norm difference",
    ".reshape_weight": "LoRA of a widened weight",
    ".lora_B.bias": "LoRA with a bias",
    ".lora_up.bias": "LoRA with a bias",
}

_LONGEST_FIRST = sorted({**LORA_SUFFIXES, **OTHER_SUFFIXES}, key=len, reverse=True)


def split_key(key: str) -> tuple[str, str] | None:
    """The module's name and the suffix of a key, or None for a key that no table knows."""
    for suffix in _LONGEST_FIRST:
        if key.endswith(suffix) and len(key) > len(suffix):
            return key[: -len(suffix)], suffix
    return None
