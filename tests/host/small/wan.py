"""Wan 2.1, text to video: a head is 128 wide, the text 4096."""

from .model import SmallModel, Stage, direct_lora, linears, vectors

WIDTH, MLP, CONTEXT = 128, 256, 4096

_ATTENTIONS = ("self_attn", "cross_attn")
_BLOCK = (
    linears({f"{a}.{name}": (WIDTH, WIDTH) for a in _ATTENTIONS for name in "qkvo"})
    | linears({"ffn.0": (MLP, WIDTH), "ffn.2": (WIDTH, MLP)})
    | vectors(WIDTH, *(f"{a}.norm_{name}.weight" for a in _ATTENTIONS for name in "qk"))
    | vectors(WIDTH, "norm3.weight", "norm3.bias")
    | {"modulation": (1, 6, WIDTH)}
)

WAN = SmallModel(
    linears(
        {
            "patch_embedding": (WIDTH, 16, 1, 2, 2),
            "text_embedding.0": (WIDTH, CONTEXT),
            "text_embedding.2": (WIDTH, WIDTH),
            "time_embedding.0": (WIDTH, 256),
            "time_embedding.2": (WIDTH, WIDTH),
            "time_projection.1": (6 * WIDTH, WIDTH),
            "head.head": (64, WIDTH),
        }
    )
    | {"head.modulation": (1, 2, WIDTH)},
    (Stage("blocks", 4, _BLOCK, direct_lora("blocks", _BLOCK)),),
    CONTEXT,
    since=(0, 3, 64),
)
