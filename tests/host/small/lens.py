"""Lens, whose blocks are Qwen-Image's but for fused q, k, v and gated MLPs; a head is 64 wide.

Of Qwen-Image itself the host takes the number of blocks from the weights, but not the width.
"""

from .model import SmallModel, Stage, direct_lora, linears, under, vectors

WIDTH, CONTEXT = 64, 48
MLP = WIDTH * 8 // 3

_STREAM = (
    linears({"mod.1": (6 * WIDTH, WIDTH)})
    | vectors(WIDTH, "norm1.weight", "norm2.weight")
    | linears({"mlp.w1": (MLP, WIDTH), "mlp.w2": (WIDTH, MLP), "mlp.w3": (MLP, WIDTH)}, bias=False)
)
_ATTENTION = linears(
    {
        "img_qkv": (3 * WIDTH, WIDTH),
        "txt_qkv": (3 * WIDTH, WIDTH),
        "to_out.0": (WIDTH, WIDTH),
        "to_add_out": (WIDTH, WIDTH),
    }
) | vectors(64, "norm_q.weight", "norm_k.weight", "norm_added_q.weight", "norm_added_k.weight")
_BLOCK = under(["attn"], _ATTENTION) | {
    f"{stream}_{name}": shape for stream in ("img", "txt") for name, shape in _STREAM.items()
}

LENS = SmallModel(
    linears(
        {
            "time_text_embed.timestep_embedder.linear_1": (WIDTH, 256),
            "time_text_embed.timestep_embedder.linear_2": (WIDTH, WIDTH),
            "txt_in": (WIDTH, CONTEXT),
            "img_in": (WIDTH, 128),
            "norm_out.linear": (2 * WIDTH, WIDTH),
            "proj_out": (128, WIDTH),
        }
    )
    | {"txt_norm.weight": (CONTEXT,)},
    (Stage("transformer_blocks", 4, _BLOCK, direct_lora("transformer_blocks", _BLOCK)),),
    CONTEXT,
)
