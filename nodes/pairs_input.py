"""The blocks that a user pairs by hand."""

PAIRS_INPUT = {
    "pairs": (
        "STRING",
        {
            "default": "",
            "multiline": True,
            "advanced": True,
            "tooltip": "Which block of this model takes which of the source, as JSON, like the "
            'pairs of ProLoRA Similarity: {"blocks.2": "blocks.3"}. What is not named: by name '
            "where the two have as many blocks, else by similarity.",
        },
    ),
}
