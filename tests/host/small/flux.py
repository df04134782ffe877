"""Flux, Flux.2 and HunyuanVideo: blocks of two streams, then of one; a head is 128 wide."""

from .model import (
    Shapes,
    SmallModel,
    Stage,
    direct_lora,
    linears,
    modules,
    numbered,
    under,
    vectors,
)

WIDTH, CONTEXT, POOLED = 128, 64, 768
DOUBLE, SINGLE = 3, 4  # blocks


def _norms(path: str) -> Shapes:
    return vectors(WIDTH, f"{path}.query_norm.scale", f"{path}.key_norm.scale")


def _double(mlp_in: int, mlp: int, modulated: bool, bias: bool) -> Shapes:
    shapes: Shapes = {}
    for stream in ("img", "txt"):
        layers = {
            f"{stream}_attn.qkv": (3 * WIDTH, WIDTH),
            f"{stream}_attn.proj": (WIDTH, WIDTH),
            f"{stream}_mlp.0": (mlp_in, WIDTH),
            f"{stream}_mlp.2": (WIDTH, mlp),
        }
        if modulated:
            layers[f"{stream}_mod.lin"] = (6 * WIDTH, WIDTH)
        shapes = shapes | linears(layers, bias) | _norms(f"{stream}_attn.norm")
    return shapes


def _single(mlp_in: int, mlp: int, modulated: bool, bias: bool) -> Shapes:
    layers = {"linear1": (3 * WIDTH + mlp_in, WIDTH), "linear2": (WIDTH, WIDTH + mlp)}
    if modulated:
        layers["modulation.lin"] = (3 * WIDTH, WIDTH)
    return linears(layers, bias) | _norms("norm")


def _embedders(*names: str, bias: bool = True) -> Shapes:
    return linears(
        {f"{name}.in_layer": (WIDTH, 256) for name in names}
        | {f"{name}.out_layer": (WIDTH, WIDTH) for name in names},
        bias,
    )


def _final(out: int, bias: bool = True) -> Shapes:
    layers = {"linear": (out, WIDTH), "adaLN_modulation.1": (2 * WIDTH, WIDTH)}
    return under(["final_layer"], linears(layers, bias))


_VECTOR_IN = linears({"vector_in.in_layer": (WIDTH, POOLED), "vector_in.out_layer": (WIDTH, WIDTH)})
_DOUBLE = _double(4 * WIDTH, 4 * WIDTH, modulated=True, bias=True)
_SINGLE = _single(4 * WIDTH, 4 * WIDTH, modulated=True, bias=True)

# diffusers' names: q, k and v are slices of one weight, and in single blocks the MLP's first layer.
_SQUARE = (WIDTH, WIDTH)
_DIFFUSERS_DOUBLE = {
    **{f"attn.{name}": _SQUARE for name in ("to_q", "to_k", "to_v", "to_out.0")},
    **{f"attn.{name}": _SQUARE for name in ("add_q_proj", "add_k_proj", "add_v_proj")},
    "attn.to_add_out": _SQUARE,
    **{f"{name}.linear": (6 * WIDTH, WIDTH) for name in ("norm1", "norm1_context")},
    **{f"{name}.net.0.proj": (4 * WIDTH, WIDTH) for name in ("ff", "ff_context")},
    **{f"{name}.net.2": (WIDTH, 4 * WIDTH) for name in ("ff", "ff_context")},
}
_DIFFUSERS_SINGLE = {
    **{f"attn.{name}": _SQUARE for name in ("to_q", "to_k", "to_v")},
    "norm.linear": (3 * WIDTH, WIDTH),
    "proj_mlp": (4 * WIDTH, WIDTH),
    "proj_out": (WIDTH, 5 * WIDTH),
}

FLUX = SmallModel(
    linears({"img_in": (WIDTH, 64), "txt_in": (WIDTH, CONTEXT)})
    | _embedders("time_in", "guidance_in")
    | _VECTOR_IN
    | _final(64),
    (
        Stage(
            "double_blocks",
            DOUBLE,
            _DOUBLE,
            under(["transformer.transformer_blocks.{}"], _DIFFUSERS_DOUBLE),
        ),
        Stage(
            "single_blocks",
            SINGLE,
            _SINGLE,
            under(["transformer.single_transformer_blocks.{}"], _DIFFUSERS_SINGLE),
        ),
    ),
    CONTEXT,
    POOLED,
)

# Flux.2: one modulation for all blocks, gated MLPs, no biases.

_DOUBLE_2 = _double(6 * WIDTH, 3 * WIDTH, modulated=False, bias=False)
_SINGLE_2 = _single(6 * WIDTH, 3 * WIDTH, modulated=False, bias=False)

FLUX_2 = SmallModel(
    linears(
        {
            "img_in": (WIDTH, 128),
            "txt_in": (WIDTH, CONTEXT),
            "double_stream_modulation_img.lin": (6 * WIDTH, WIDTH),
            "double_stream_modulation_txt.lin": (6 * WIDTH, WIDTH),
            "single_stream_modulation.lin": (3 * WIDTH, WIDTH),
        },
        bias=False,
    )
    | _embedders("time_in", "guidance_in", bias=False)
    | _final(128, bias=False),
    (
        Stage("double_blocks", DOUBLE, _DOUBLE_2, direct_lora("double_blocks", _DOUBLE_2)),
        Stage("single_blocks", SINGLE, _SINGLE_2, direct_lora("single_blocks", _SINGLE_2)),
    ),
    CONTEXT,
)

# HunyuanVideo: Flux's blocks, and two more for the text, whose number is fixed.

_REFINER = linears(
    {
        "adaLN_modulation.1": (2 * WIDTH, WIDTH),
        "norm1": (WIDTH,),
        "norm2": (WIDTH,),
        "self_attn.qkv": (3 * WIDTH, WIDTH),
        "self_attn.proj": (WIDTH, WIDTH),
        "mlp.0": (4 * WIDTH, WIDTH),
        "mlp.2": (WIDTH, 4 * WIDTH),
    }
)
_DIFFUSION_PIPE = (
    ("_mod.lin", "_mod.linear"),
    ("_attn.qkv", "_attn_qkv"),
    ("_attn.proj", "_attn_proj"),
    ("mlp.0", "mlp.fc1"),
    ("mlp.2", "mlp.fc2"),
    ("modulation.lin", "modulation.linear"),
)


def _diffusion_pipe_lora(path: str, shapes: Shapes) -> Shapes:
    lora: Shapes = {}
    for name, shape in modules(shapes).items():
        for ours, theirs in _DIFFUSION_PIPE:
            name = theirs.join(name.rsplit(ours, 1)) if name.endswith(ours) else name
        lora = lora | {f"transformer.{path}.{{}}.{name}": shape}
    return lora


HUNYUAN_VIDEO = SmallModel(
    linears({"img_in.proj": (WIDTH, 16, 1, 2, 2), "txt_in.input_embedder": (WIDTH, CONTEXT)})
    | _embedders("time_in", "guidance_in", "txt_in.t_embedder")
    | linears(
        {
            "txt_in.c_embedder.in_layer": (WIDTH, CONTEXT),
            "txt_in.c_embedder.out_layer": (WIDTH, WIDTH),
        }
    )
    | _VECTOR_IN
    | numbered("txt_in.individual_token_refiner.blocks", 2, _REFINER)
    | _final(64),
    (
        Stage("double_blocks", DOUBLE, _DOUBLE, _diffusion_pipe_lora("double_blocks", _DOUBLE)),
        Stage("single_blocks", SINGLE, _SINGLE, _diffusion_pipe_lora("single_blocks", _SINGLE)),
    ),
    CONTEXT,
    POOLED,
    since=(0, 3, 64),
)
