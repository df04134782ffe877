"""Where text encoders lie in checkpoints and in folders of diffusers, and under which names.

ComfyUI's names for them are `clip_l.transformer.` and so on, with the modules of the transformers
library. OpenCLIP has others: q, k and v are one weight there, and the projection is transposed.
"""

import re
from collections.abc import Iterator

from .rearranged import Origin
from .references import Slice
from .weights import Weights

# What the keys of an encoder begin with in a file, and in ComfyUI; the first that fits.
_PREFIXES = {
    "text_encoders.": "",
    "cond_stage_model.model.": "clip_h.",
    "cond_stage_model.": "clip_l.",
    "conditioner.embedders.0.model.": "clip_h.",  # or the clip_g of SDXL's refiner
    "conditioner.embedders.0.": "clip_l.",
    "conditioner.embedders.1.model.": "clip_g.",
}
_FOLDER = re.compile(r"text_encoder(_\d)?/")
_WIDTHS = {768: "clip_l", 1024: "clip_h", 1280: "clip_g"}
_WITHOUT_TEXT_MODEL = re.compile(
    r"(clip_l\.transformer\.)(?=(embeddings|encoder|final_layer_norm)\.)"
)

# OpenCLIP's names, and the transformers library's.
_OPEN_CLIP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.": "embeddings.token_embedding.",
    "ln_final.": "final_layer_norm.",
    "ln_1.": "layer_norm1.",
    "ln_2.": "layer_norm2.",
    "mlp.c_fc.": "mlp.fc1.",
    "mlp.c_proj.": "mlp.fc2.",
    "attn.out_proj.": "self_attn.out_proj.",
}
_OPEN_CLIP_LAYER = re.compile(r"transformer\.resblocks\.(\d+)\.")
_IN_PROJ = "attn.in_proj_"


def text_encoder_origins(weights: Weights, key: str) -> Iterator[tuple[str, Origin]]:
    """ComfyUI's keys for what a file's key of a text encoder holds; none for any other key."""
    start = next((start for start in _PREFIXES if key.startswith(start)), "")
    if not start:
        folder = _FOLDER.match(key)
        if folder is not None:
            yield _in_folder(weights, folder[0]) + key.removeprefix(folder[0]), Origin(key)
        return
    encoder, rest = _PREFIXES[start], key.removeprefix(start)
    if ".model." not in start:
        yield _WITHOUT_TEXT_MODEL.sub(r"\1text_model.", encoder + rest), Origin(key)
        return
    if (
        encoder == "clip_h."
        and _width(weights, f"{start}transformer.resblocks.0.ln_1.weight") == 1280
    ):
        encoder = "clip_g."
    for name, origin in _from_open_clip(weights, key, rest):
        yield encoder + name, origin


def _from_open_clip(weights: Weights, key: str, rest: str) -> Iterator[tuple[str, Origin]]:
    if rest.removesuffix(".weight") == "text_projection":
        yield (
            "transformer.text_projection.weight",
            Origin(key, transposed=rest == "text_projection"),
        )
        return
    layer = _OPEN_CLIP_LAYER.match(rest)
    start = f"encoder.layers.{layer[1]}." if layer is not None else ""
    inner = rest.removeprefix(layer[0] if layer is not None else "")
    if inner.startswith(_IN_PROJ):
        rows = weights.shape(key)[0] // 3
        for i, part in enumerate("qkv"):
            name = f"{start}self_attn.{part}_proj.{inner.removeprefix(_IN_PROJ)}"
            yield f"transformer.text_model.{name}", Origin(key, Slice(0, i * rows, rows))
        return
    for theirs, ours in _OPEN_CLIP.items():
        if inner.startswith(theirs):
            yield f"transformer.text_model.{start}{ours}{inner.removeprefix(theirs)}", Origin(key)
            return
    yield rest, Origin(key)


def _in_folder(weights: Weights, folder: str) -> str:
    """What ComfyUI's keys of a folder's encoder begin with; the folder where that is not known."""
    width = _width(weights, f"{folder}text_model.encoder.layers.0.layer_norm1.weight")
    if width:
        return f"{_WIDTHS.get(width, 'clip_g' if '_2' in folder else 'clip_l')}.transformer."
    block = f"{folder}encoder.block.{{}}.layer.0.SelfAttention.relative_attention_bias.weight"
    is_t5 = block.format(0) in weights and block.format(1) not in weights  # UMT5 has one a block
    return "t5xxl.transformer." if is_t5 else folder


def _width(weights: Weights, key: str) -> int:
    return weights.shape(key)[0] if key in weights else 0
