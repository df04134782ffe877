"""What the diffusers library calls the modules of transformers that their authors call otherwise.

Checkpoints and ComfyUI have the authors' names. The library splits some weights: it has to_q, to_k
and to_v where the authors have one qkv, and it stores scale and shift of the last modulation the
other way round. Source: the module trees of both, as ComfyUI 0.33.0 matches them.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from .references import Slice

_BLOCK = re.compile(r"^(\w+)\.(\d+)\.")  # the list that a module is in, and its place there

# Of a block or of the model: the authors' name -> the library's. Several are the parts of one
# weight, each as many rows as the weight has inputs; what is named twice has two such parts.
Rows = Mapping[str, str | tuple[str, ...]]


@dataclass(frozen=True)
class Stack:
    """Blocks that are alike: what both call their list, and the modules in them."""

    authors: str
    library: str
    rows: Rows


@dataclass(frozen=True)
class Library:
    """The names of one architecture.

    Attributes:
        rows: of the modules that are in no block.
        swapped: the authors' modules whose two halves the library has the other way round.
    """

    stacks: tuple[Stack, ...]
    rows: Rows
    swapped: tuple[str, ...] = ()


@dataclass(frozen=True)
class LibraryName:
    """What the library calls a module, or a part of one.

    Attributes:
        part: of the weight's rows; None for the whole.
        halves_swapped: see WeightRef.
    """

    module: str
    part: Slice | None = None
    halves_swapped: bool = False


def _qkv(names: str) -> tuple[str, ...]:
    return tuple(names.format(part) for part in "qkv")


_EMBEDDER = "time_text_embed.{}_embedder.linear_{}".format
_FLUX_BLOCK: Rows = {
    "img_attn.qkv": _qkv("attn.to_{}"),
    "txt_attn.qkv": _qkv("attn.add_{}_proj"),
    "img_attn.proj": "attn.to_out.0",
    "txt_attn.proj": "attn.to_add_out",
    "img_attn.norm.query_norm": "attn.norm_q",
    "img_attn.norm.key_norm": "attn.norm_k",
    "txt_attn.norm.query_norm": "attn.norm_added_q",
    "txt_attn.norm.key_norm": "attn.norm_added_k",
    "img_mod.lin": "norm1.linear",
    "txt_mod.lin": "norm1_context.linear",
    "img_mlp.0": "ff.net.0.proj",
    "img_mlp.2": "ff.net.2",
    "txt_mlp.0": "ff_context.net.0.proj",
    "txt_mlp.2": "ff_context.net.2",
}
_FLUX2_BLOCK: Rows = {
    "img_mlp.0": "ff.linear_in",
    "img_mlp.2": "ff.linear_out",
    "txt_mlp.0": "ff_context.linear_in",
    "txt_mlp.2": "ff_context.linear_out",
}
_FLUX_SINGLE_BLOCK: Rows = {
    "linear1": (*_qkv("attn.to_{}"), *("proj_mlp",) * 4),
    "linear2": "proj_out",
    "modulation.lin": "norm.linear",
    "norm.query_norm": "attn.norm_q",
    "norm.key_norm": "attn.norm_k",
}
_FLUX2_SINGLE_BLOCK: Rows = {"linear1": "attn.to_qkv_mlp_proj", "linear2": "attn.to_out"}
# Flux.1, Flux.2, Chroma
FLUX = Library(
    (
        Stack("double_blocks", "transformer_blocks", _FLUX_BLOCK),
        Stack("double_blocks", "transformer_blocks", _FLUX2_BLOCK),
        Stack("single_blocks", "single_transformer_blocks", _FLUX_SINGLE_BLOCK),
        Stack("single_blocks", "single_transformer_blocks", _FLUX2_SINGLE_BLOCK),
    ),
    {
        "img_in": "x_embedder",
        "txt_in": "context_embedder",
        "time_in.in_layer": _EMBEDDER("timestep", 1),
        "time_in.out_layer": _EMBEDDER("timestep", 2),
        "vector_in.in_layer": _EMBEDDER("text", 1),
        "vector_in.out_layer": _EMBEDDER("text", 2),
        "guidance_in.in_layer": _EMBEDDER("guidance", 1),
        "guidance_in.out_layer": _EMBEDDER("guidance", 2),
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    },
    swapped=("final_layer.adaLN_modulation.1",),
)
SD3 = Library(
    (
        Stack(
            "joint_blocks",
            "transformer_blocks",
            {
                "x_block.attn.qkv": _qkv("attn.to_{}"),
                "context_block.attn.qkv": _qkv("attn.add_{}_proj"),
                "x_block.attn2.qkv": _qkv("attn2.to_{}"),
                "x_block.attn.proj": "attn.to_out.0",
                "context_block.attn.proj": "attn.to_add_out",
                "x_block.attn2.proj": "attn2.to_out.0",
                "x_block.attn.ln_q": "attn.norm_q",
                "x_block.attn.ln_k": "attn.norm_k",
                "context_block.attn.ln_q": "attn.norm_added_q",
                "context_block.attn.ln_k": "attn.norm_added_k",
                "x_block.attn2.ln_q": "attn2.norm_q",
                "x_block.attn2.ln_k": "attn2.norm_k",
                "x_block.adaLN_modulation.1": "norm1.linear",
                "context_block.adaLN_modulation.1": "norm1_context.linear",
                "x_block.mlp.fc1": "ff.net.0.proj",
                "x_block.mlp.fc2": "ff.net.2",
                "context_block.mlp.fc1": "ff_context.net.0.proj",
                "context_block.mlp.fc2": "ff_context.net.2",
            },
        ),
    ),
    {
        "context_embedder": "context_embedder",
        "t_embedder.mlp.0": _EMBEDDER("timestep", 1),
        "t_embedder.mlp.2": _EMBEDDER("timestep", 2),
        "y_embedder.mlp.0": _EMBEDDER("text", 1),
        "y_embedder.mlp.2": _EMBEDDER("text", 2),
        "x_embedder.proj": "pos_embed.proj",
        "pos_embed": "pos_embed.pos_embed",
        "final_layer.linear": "proj_out",
        "final_layer.adaLN_modulation.1": "norm_out.linear",
    },
    # The context's modulation has two parts in the last block, and six, unswapped, in the others.
    swapped=("final_layer.adaLN_modulation.1", "context_block.adaLN_modulation.1"),
)
_ADALN = "adaln_single.emb.{}_embedder.linear_{}".format
PIXART = Library(
    (
        Stack(
            "blocks",
            "transformer_blocks",
            {
                "scale_shift_table": "scale_shift_table",
                "attn.qkv": _qkv("attn1.to_{}"),
                "attn.proj": "attn1.to_out.0",
                "cross_attn.q_linear": "attn2.to_q",
                "cross_attn.kv_linear": ("attn2.to_k", "attn2.to_v"),
                "cross_attn.proj": "attn2.to_out.0",
                "mlp.fc1": "ff.net.0.proj",
                "mlp.fc2": "ff.net.2",
            },
        ),
    ),
    {
        "csize_embedder.mlp.0": _ADALN("resolution", 1),
        "csize_embedder.mlp.2": _ADALN("resolution", 2),
        "ar_embedder.mlp.0": _ADALN("aspect_ratio", 1),
        "ar_embedder.mlp.2": _ADALN("aspect_ratio", 2),
        "t_embedder.mlp.0": _ADALN("timestep", 1),
        "t_embedder.mlp.2": _ADALN("timestep", 2),
        "t_block.1": "adaln_single.linear",
        "x_embedder.proj": "pos_embed.proj",
        "y_embedder.y_embedding": "caption_projection.y_embedding",
        "y_embedder.y_proj.fc1": "caption_projection.linear_1",
        "y_embedder.y_proj.fc2": "caption_projection.linear_2",
        "final_layer.linear": "proj_out",
        "final_layer.scale_shift_table": "scale_shift_table",
    },
)
AURAFLOW = Library(
    (
        Stack(
            "double_layers",
            "joint_transformer_blocks",
            {
                **{f"attn.w2{part}": f"attn.to_{part}" for part in "qkv"},
                **{f"attn.w1{part}": f"attn.add_{part}_proj" for part in "qkv"},
                "attn.w2o": "attn.to_out.0",
                "attn.w1o": "attn.to_add_out",
                "mlpX.c_fc1": "ff.linear_1",
                "mlpX.c_fc2": "ff.linear_2",
                "mlpX.c_proj": "ff.out_projection",
                "mlpC.c_fc1": "ff_context.linear_1",
                "mlpC.c_fc2": "ff_context.linear_2",
                "mlpC.c_proj": "ff_context.out_projection",
                "modX.1": "norm1.linear",
                "modC.1": "norm1_context.linear",
            },
        ),
        Stack(
            "single_layers",
            "single_transformer_blocks",
            {
                **{f"attn.w1{part}": f"attn.to_{part}" for part in "qkv"},
                "attn.w1o": "attn.to_out.0",
                "mlp.c_fc1": "ff.linear_1",
                "mlp.c_fc2": "ff.linear_2",
                "mlp.c_proj": "ff.out_projection",
                "modCX.1": "norm1.linear",
            },
        ),
    ),
    {
        "positional_encoding": "pos_embed.pos_embed",
        "register_tokens": "register_tokens",
        "t_embedder.mlp.0": "time_step_proj.linear_1",
        "t_embedder.mlp.2": "time_step_proj.linear_2",
        "cond_seq_linear": "context_embedder",
        "init_x_linear": "pos_embed.proj",
        "final_linear": "proj_out",
        "modF.1": "norm_out.linear",
    },
    swapped=("modF.1",),
)
_NEXT_BLOCK: Rows = {
    "attention.qkv": _qkv("attention.to_{}"),
    "attention.out": "attention.to_out.0",
    "attention.q_norm": "attention.norm_q",
    "attention.k_norm": "attention.norm_k",
    **{name: name for name in ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")},
    **{name: name for name in ("feed_forward.w1", "feed_forward.w2", "feed_forward.w3")},
    "adaLN_modulation.0": "adaLN_modulation.0",
}
_LAST = "all_final_layer.2-1.{}".format
# Lumina 2, Z-Image
LUMINA = Library(
    tuple(
        Stack(name, name, _NEXT_BLOCK) for name in ("layers", "context_refiner", "noise_refiner")
    ),
    {
        "final_layer.linear": _LAST("linear"),
        "final_layer.adaLN_modulation.1": _LAST("adaLN_modulation.1"),
        "x_embedder": "all_x_embedder.2-1",
        "cap_embedder.0": "cap_embedder.0",
        "cap_embedder.1": "cap_embedder.1",
        "t_embedder.mlp.0": "t_embedder.mlp.0",
        "t_embedder.mlp.2": "t_embedder.mlp.2",
    },
)


LIBRARIES = {
    **dict.fromkeys(("Flux", "Flux.2", "Chroma"), FLUX),
    **dict.fromkeys(("Lumina 2", "Z-Image"), LUMINA),
    **{"SD3": SD3, "PixArt": PIXART, "AuraFlow": AURAFLOW},
}


@dataclass(frozen=True)
class AuthorsModule:
    """A module of the authors', for a model that has the library's.

    Attributes:
        parts: the library's modules that make it, in order.
        halves_swapped: whether the library has the second half of the rows first.
    """

    name: str
    parts: tuple[str, ...]
    halves_swapped: bool


def library_of(architectures: Collection[str]) -> Library | None:
    """The names that models of all these architectures have in the library; None for several."""
    found = [LIBRARIES.get(name) for name in architectures]
    return found[0] if found and all(library is found[0] for library in found) else None


def library_names(library: Library, module: str, shape: tuple[int, ...]) -> Iterator[LibraryName]:
    """What the library calls a module of the authors', in the order in which ComfyUI knows it.

    Args:
        shape: of the module's weight.
    """
    block = _BLOCK.match(module)
    places = [("", library.rows, module)]
    if block is not None:
        places += [
            (f"{stack.library}.{block[2]}.", stack.rows, module[block.end() :])
            for stack in library.stacks
            if stack.authors == block[1]
        ]
    for start, rows, name in places:
        parts = rows.get(name, ())
        if isinstance(parts, str):
            yield LibraryName(start + parts, None, _is_swapped(library, name, shape))
            continue
        for part in dict.fromkeys(parts if len(shape) > 1 else ()):  # rows of a matrix
            first, count = parts.index(part), parts.count(part)
            yield LibraryName(start + part, Slice(0, first * shape[1], count * shape[1]))


def authors_modules(
    library: Library, modules: Mapping[str, tuple[int, ...]]
) -> Iterator[AuthorsModule]:
    """The modules of the authors' that the library's make, where all parts of one are there.

    Args:
        modules: of a model as the library has it -> shape of the weight.
    """
    blocks = {(match[1], match[2]) for match in map(_BLOCK.match, modules) if match is not None}
    places = [("", "", library.rows)]
    places += [
        (f"{stack.authors}.{number}.", f"{stack.library}.{number}.", stack.rows)
        for name, number in sorted(blocks)
        for stack in library.stacks
        if stack.library == name
    ]
    for authors, theirs, rows in places:
        for name, row in rows.items():
            parts = tuple(
                theirs + p for p in ((row,) if isinstance(row, str) else dict.fromkeys(row))
            )
            if parts != (authors + name,) and all(part in modules for part in parts):
                swapped = _is_swapped(library, name, modules[parts[0]])
                yield AuthorsModule(authors + name, parts, swapped)


def _is_swapped(library: Library, name: str, shape: tuple[int, ...]) -> bool:
    return name in library.swapped and len(shape) == 2 and shape[0] == 2 * shape[1]
