"""Kandinsky 5: a head is 64 wide, the texts 3584 and 768."""

from .model import SmallModel, Stage, linears, modules, numbered, under, vectors

WIDTH, TIME, MLP, CONTEXT, POOLED = 64, 32, 128, 3584, 768
PATCHED = 132  # 16 channels twice and a mask, in patches of 2 x 2

_ATTENTION = linears(
    dict.fromkeys(("to_query", "to_key", "to_value", "out_layer"), (WIDTH, WIDTH))
) | vectors(64, "query_norm.weight", "key_norm.weight")
_MLP = linears(
    {"feed_forward.in_layer": (MLP, WIDTH), "feed_forward.out_layer": (WIDTH, MLP)}, bias=False
)
_TEXT_BLOCK = (
    linears({"text_modulation.out_layer": (6 * WIDTH, TIME)})
    | under(["self_attention"], _ATTENTION)
    | _MLP
)
_BLOCK = (
    linears({"visual_modulation.out_layer": (9 * WIDTH, TIME)})
    | under(["self_attention", "cross_attention"], _ATTENTION)
    | _MLP
)

KANDINSKY_5 = SmallModel(
    linears(
        {
            "time_embeddings.in_layer": (TIME, WIDTH),
            "time_embeddings.out_layer": (TIME, TIME),
            "text_embeddings.in_layer": (WIDTH, CONTEXT),
            "text_embeddings.norm": (WIDTH,),
            "pooled_text_embeddings.in_layer": (TIME, POOLED),
            "pooled_text_embeddings.norm": (TIME,),
            "visual_embeddings.in_layer": (WIDTH, PATCHED),
            "out_layer.modulation.out_layer": (2 * WIDTH, TIME),
            "out_layer.out_layer": (64, WIDTH),
        }
    )
    | numbered("text_transformer_blocks", 2, _TEXT_BLOCK),
    (
        Stage(
            "visual_transformer_blocks",
            4,
            _BLOCK,
            under(["transformer.visual_transformer_blocks.{}"], modules(_BLOCK)),
        ),
    ),
    CONTEXT,
    POOLED,
)
