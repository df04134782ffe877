"""The input for blocks that a user pairs by hand."""

PAIRS_INPUT = {
    "pairs": (
        "STRING",
        {
            "default": "",
            "multiline": True,
            "advanced": True,
            "tooltip": "Which block of this model takes which block of the source, as JSON: "
            '{"blocks.2": "blocks.3"}. ProLoRA Similarity writes all pairs in this form. Blocks '
            "that are not named here are paired by name where both models have as many, else by "
            "similarity.",
        },
    ),
}
