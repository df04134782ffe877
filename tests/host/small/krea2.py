"""Krea 2: a head is 128 wide; the text comes in several layers, each of 20 heads."""

from .model import Shapes, SmallModel, Stage, linears, numbered, under, vectors

WIDTH, MLP = 128, 384
TEXT, TEXT_MLP, TEXT_HEAD, TEXT_LAYERS = 40, 128, 2, 2


def _block(width: int, mlp: int, head: int) -> Shapes:
    attention = dict.fromkeys(("wq", "wk", "wv", "gate", "wo"), (width, width))
    layers = {f"attn.{name}": shape for name, shape in attention.items()}
    layers |= {"mlp.gate": (mlp, width), "mlp.up": (mlp, width), "mlp.down": (width, mlp)}
    return (
        linears(layers, bias=False)
        | vectors(width, "prenorm.scale", "postnorm.scale")
        | vectors(head, "attn.qknorm.qnorm.scale", "attn.qknorm.knorm.scale")
    )


_BLOCK = _block(WIDTH, MLP, WIDTH) | vectors(6 * WIDTH, "mod.lin")
_TEXT_BLOCK = _block(TEXT, TEXT_MLP, TEXT_HEAD)

# diffusers' names
_LORA = {
    **{f"attn.to_{name}": (WIDTH, WIDTH) for name in ("q", "k", "v", "gate", "out.0")},
    **{f"ff.{name}": (MLP, WIDTH) for name in ("gate", "up")},
    "ff.down": (WIDTH, MLP),
}

KREA_2 = SmallModel(
    linears(
        {
            "first": (WIDTH, 64),
            "tmlp.0": (WIDTH, 256),
            "tmlp.2": (WIDTH, WIDTH),
            "txtmlp.1": (WIDTH, TEXT),
            "txtmlp.3": (WIDTH, WIDTH),
            "tproj.1": (6 * WIDTH, WIDTH),
            "last.linear": (64, WIDTH),
        }
    )
    | {
        "txtfusion.projector.weight": (1, TEXT_LAYERS),
        "txtmlp.0.scale": (TEXT,),
        "last.norm.scale": (WIDTH,),
        "last.modulation.lin": (2, WIDTH),
    }
    | numbered("txtfusion.layerwise_blocks", 2, _TEXT_BLOCK)
    | numbered("txtfusion.refiner_blocks", 2, _TEXT_BLOCK),
    (Stage("blocks", 4, _BLOCK, under(["transformer.transformer_blocks.{}"], _LORA)),),
    TEXT_LAYERS * TEXT,
)
