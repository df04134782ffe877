"""Boogu-Image, of Lumina's family: 28 heads, 7 for k and v, here of 4.

A head must be 120 wide for the positions, so the host loads this one but cannot sample with it.
Of Lumina 2 and Z-Image themselves the host knows one width each.
"""

from .model import Shapes, SmallModel, Stage, direct_lora, linears, numbered, under, vectors

HEAD = 4
WIDTH, KV, MLP, CONTEXT = 28 * HEAD, 7 * HEAD, 512, 48


def _qkv(*prefixes: str) -> Shapes:
    sizes = {"to_q": WIDTH, "to_k": KV, "to_v": KV}
    return linears({f"{p}{n}": (m, WIDTH) for p in prefixes for n, m in sizes.items()}, bias=False)


_NORMS = vectors(HEAD, "norm_q.weight", "norm_k.weight")
_OUT = linears({"to_out.0": (WIDTH, WIDTH)}, bias=False)
_MLP = linears(
    {"linear_1": (MLP, WIDTH), "linear_2": (WIDTH, MLP), "linear_3": (MLP, WIDTH)}, bias=False
)
_MODULATION = linears({"linear": (4 * WIDTH, WIDTH)}) | vectors(WIDTH, "norm.weight")
_SELF = _qkv("") | _OUT | _NORMS
_JOINT = (
    under(["processor"], _qkv("img_", "instruct_"))
    | linears({f"processor.{n}": (WIDTH, WIDTH) for n in ("instruct_out", "img_out")}, bias=False)
    | _OUT
    | _NORMS
)

_REFINER = (
    under(["attn"], _SELF)
    | under(["feed_forward"], _MLP)
    | vectors(WIDTH, "ffn_norm1.weight", "norm2.weight", "ffn_norm2.weight")
)
_CONTEXT_REFINER = _REFINER | vectors(WIDTH, "norm1.weight")
_SINGLE = _REFINER | under(["norm1"], _MODULATION)
_DOUBLE = (
    under(["img_instruct_attn"], _JOINT)
    | under(["img_self_attn"], _SELF)
    | under(["img_feed_forward", "instruct_feed_forward"], _MLP)
    | under(["img_norm1", "img_norm2", "img_norm3"], _MODULATION)
    | under(["instruct_norm1", "instruct_norm2"], _MODULATION)
    | vectors(WIDTH, *(f"img_{n}.weight" for n in ("attn_norm", "self_attn_norm")))
    | vectors(WIDTH, *(f"img_ffn_norm{n}.weight" for n in (1, 2)))
    | vectors(WIDTH, *(f"instruct_{n}.weight" for n in ("attn_norm", "ffn_norm1", "ffn_norm2")))
)

BOOGU = SmallModel(
    linears(
        {
            "x_embedder": (WIDTH, 64),
            "ref_image_patch_embedder": (WIDTH, 64),
            "time_caption_embed.timestep_embedder.linear_1": (WIDTH, 256),
            "time_caption_embed.timestep_embedder.linear_2": (WIDTH, WIDTH),
            "time_caption_embed.caption_embedder.1": (WIDTH, CONTEXT),
            "norm_out.linear_1": (WIDTH, WIDTH),
            "norm_out.linear_2": (64, WIDTH),
        }
    )
    | {
        "image_index_embedding": (5, WIDTH),
        "time_caption_embed.caption_embedder.0.weight": (CONTEXT,),
    }
    | numbered("noise_refiner", 1, _SINGLE)
    | numbered("ref_image_refiner", 1, _SINGLE)
    | numbered("context_refiner", 1, _CONTEXT_REFINER),
    (
        Stage("double_stream_layers", 3, _DOUBLE, direct_lora("double_stream_layers", _DOUBLE)),
        Stage("single_stream_layers", 4, _SINGLE, direct_lora("single_stream_layers", _SINGLE)),
    ),
    CONTEXT,
    computes=False,
)
