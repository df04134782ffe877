"""LTX-Video: 32 heads, here of 4; the text is 4096 wide."""

from .model import SmallModel, Stage, direct_lora, linears, under, vectors

WIDTH, CONTEXT = 128, 4096

_ATTENTION = linears(dict.fromkeys(("to_q", "to_k", "to_v", "to_out.0"), (WIDTH, WIDTH)))
_BLOCK = (
    under(["attn1", "attn2"], _ATTENTION | vectors(WIDTH, "q_norm.weight", "k_norm.weight"))
    | linears({"ff.net.0.proj": (4 * WIDTH, WIDTH), "ff.net.2": (WIDTH, 4 * WIDTH)})
    | {"scale_shift_table": (6, WIDTH)}
)

LTXV = SmallModel(
    linears(
        {
            "patchify_proj": (WIDTH, 128),
            "adaln_single.emb.timestep_embedder.linear_1": (WIDTH, 256),
            "adaln_single.emb.timestep_embedder.linear_2": (WIDTH, WIDTH),
            "adaln_single.linear": (6 * WIDTH, WIDTH),
            "caption_projection.linear_1": (WIDTH, CONTEXT),
            "caption_projection.linear_2": (WIDTH, WIDTH),
            "proj_out": (128, WIDTH),
        }
    )
    | {"scale_shift_table": (2, WIDTH)},
    (Stage("transformer_blocks", 4, _BLOCK, direct_lora("transformer_blocks", _BLOCK)),),
    CONTEXT,
    since=(0, 3, 64),
)
