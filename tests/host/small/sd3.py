"""SD3: the host reads the number of blocks off the width, 64 for each; a head is 64 wide.

SD3.5 has norms of q and k as well, which hosts from June 2024 do not know.
"""

from .model import Shapes, SmallModel, Stage, kohya_lora, linears, under

DEPTH = 3
WIDTH, CONTEXT, POOLED = 64 * DEPTH, 64, 64


def _stream(modulations: int, more: Shapes | None = None) -> Shapes:
    attention = {"attn.qkv": (3 * WIDTH, WIDTH)}
    modulation = {"adaLN_modulation.1": (modulations * WIDTH, WIDTH)}
    return linears(attention | modulation | (more or {}))


_FULL = _stream(
    6,
    {
        "attn.proj": (WIDTH, WIDTH),
        "mlp.fc1": (4 * WIDTH, WIDTH),
        "mlp.fc2": (WIDTH, 4 * WIDTH),
    },
)
_BLOCK = under(["context_block", "x_block"], _FULL)
# What the text becomes in the last block is of no use to anyone.
_LAST = under(["context_block"], _stream(2)) | under(["x_block"], _FULL)

SD3 = SmallModel(
    linears(
        {
            "x_embedder.proj": (WIDTH, 16, 2, 2),
            "t_embedder.mlp.0": (WIDTH, 256),
            "t_embedder.mlp.2": (WIDTH, WIDTH),
            "y_embedder.mlp.0": (WIDTH, POOLED),
            "y_embedder.mlp.2": (WIDTH, WIDTH),
            "context_embedder": (WIDTH, CONTEXT),
            "final_layer.linear": (64, WIDTH),
            "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
        }
    )
    | {"pos_embed": (1, 256, WIDTH)}
    | under([f"joint_blocks.{DEPTH - 1}"], _LAST),
    (Stage("joint_blocks", DEPTH - 1, _BLOCK, kohya_lora("joint_blocks", _BLOCK)),),
    CONTEXT,
    POOLED,
    counted=False,
    in_checkpoint=True,
    since=(),
)
