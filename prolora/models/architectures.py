"""Which architectures module names fit: those of a checkpoint, or of a LoRA, which has no more.

Architectures share names. A LoRA of attention alone, as `transformer_blocks.0.attn.to_q`, may be
Flux's, SD3's or Qwen-Image's, and that is what is said of it. In a graph ComfyUI says what a model
is; on the command line the names of all its modules do, and they fit one architecture.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .module_names import canonical_name, is_text_encoder


@dataclass(frozen=True)
class Architecture:
    """Models whose modules have the same names.

    Attributes:
        names: of the models.
        modules: pattern of the modules' names, the authors' and the diffusers library's, in the
            form of canonical_name.
        always: what every model has a module of, where another architecture has all but that.
    """

    names: tuple[str, ...]
    modules: str
    always: str = ".*"

    def has(self, name: str) -> bool:
        return re.fullmatch(self.modules, name) is not None


def _any(*patterns: str) -> str:
    return "|".join(patterns)


_QKVO = "(to_[qkv]|to_out_0|norm_[qk])"
_ADDED = "(add_[qkv]_proj|to_add_out|norm_added_[qk])"
_EMBEDDERS = r"(time_text_embed|norm_out|proj_out)(_\w+)?"
_JOINT = rf"transformer_blocks_\d+_attn_({_QKVO}|{_ADDED})"
_JOINT_MLP = r"transformer_blocks_\d+_(ff(_context)?_net_(0_proj|2)|norm1(_context)?_linear)"
_SINGLE = rf"single_transformer_blocks_\d+_(attn_{_QKVO}|proj_mlp|proj_out|norm_linear)"
_CROSS = rf"transformer_blocks_\d+_(attn[12]_{_QKVO}|ff_net_(0_proj|2))"
# Flux.1, Flux.2, Chroma and HunyuanVideo
_DOUBLE = r"double_blocks_\d+_(img|txt)_(attn_(qkv|proj|norm_\w+)|mlp_[02])"
_DOUBLE += r"|single_blocks_\d+_(linear[12](_qkv)?|norm_\w+)"
_MODULATED = r"double_blocks_\d+_(img|txt)_mod_lin|single_blocks_\d+_modulation_lin"
_FLUX_ENDS = r"(img|txt)_in|final_layer_linear|(x|context)_embedder|proj_out"
_TIMED = r"(time|guidance)_in_(in|out)_layer|final_layer_adaLN_modulation_1"
# ldm's and the diffusers library's
_UNET_ENDS = r"time_embed_[02]|time_embedding_linear_[12]|conv_(in|out|norm_out)|out_[02]"
_UNET_ENDS += r"|input_blocks_0_0|middle_block_[02]_\w+|mid_block_resnets_[01]_\w+"
_RESNET = r"(resnets_\d|(down|up)samplers_0)_\w+"
_COSMOS = (
    r"blocks_\d+_((self|cross)_attn_((q|k|v|output)_proj|[qk]_norm)|mlp_layer[12]|"
    r"adaln_modulation_(self_attn|cross_attn|mlp)_[12])|x_embedder_proj_1|t_embedding_norm|"
    r"t_embedder_1_linear_[12]|final_layer_(adaln_modulation_[12]|linear)"
)
_NEXT_DIT = (
    r"(layers|context_refiner|noise_refiner)_\d+_(attention_(qkv|out|to_[qkv]|to_out_0|\w*norm\w*)|"
    r"feed_forward_w[123]|adaLN_modulation_[01]|\w*norm[12]|attn_\w+|norm1_linear|"
    r"feed_forward_linear_[123])|cap_embedder_[01]|x_embedder|t_embedder_mlp_[02]|"
    r"final_layer_(linear|adaLN_modulation_1)|all_\w+"
)
ARCHITECTURES = (
    Architecture(
        ("SD1.x", "SD2.x"),
        _any(
            _UNET_ENDS,
            r"input_blocks_(\d|1[01])_0_\w+|output_blocks_(\d|1[01])_0_\w+",
            rf"(down|up)_blocks_[0-3]_{_RESNET}|output_blocks_(2_1|5_2|8_2)_conv",
            r"(input_blocks_[124578]|output_blocks_([3-9]|1[01]))_1_(?!.*transformer_blocks_[1-9])"
            r"(norm|proj|transformer)\w+",
            r"(down_blocks_[0-2]|up_blocks_[1-3])_attentions_(?!.*transformer_blocks_[1-9])\w+",
            r"(middle_block_1|mid_block_attentions_0)_(?!transformer_blocks_[1-9])\w+",
        ),
    ),
    # Of every depth: SSD-1B, Vega and KOALA too.
    Architecture(
        ("SDXL",),
        _any(
            _UNET_ENDS,
            r"input_blocks_[0-8]_0_\w+|output_blocks_[0-8]_0_\w+|label_emb_0_[02]",
            rf"(down|up)_blocks_[0-2]_{_RESNET}|output_blocks_[1235]_2_conv",
            r"(class|add)_embedding_linear_[12]",
            r"(input_blocks_[3-8]|output_blocks_[0-5])_1_(norm|proj|transformer)\w+",
            r"(down_blocks_[12]|up_blocks_[01])_attentions_\w+",
            r"(middle_block_1|mid_block_attentions_0)_\w+",
            "te2 text_.+",
        ),
    ),
    Architecture(
        ("SD3",),
        _any(
            rf"joint_blocks_\d+_(x|context)_block_\w+|{_JOINT}|{_JOINT_MLP}|{_EMBEDDERS}",
            rf"transformer_blocks_\d+_attn2_{_QKVO}|context_embedder|pos_embed_proj",
            r"[ty]_embedder_mlp_[02]|x_embedder_proj|final_layer_(linear|adaLN_modulation_1)",
            "te[23] .+",
        ),
    ),
    Architecture(
        ("Flux",),
        _any(
            *(_DOUBLE, _MODULATED, _FLUX_ENDS, _TIMED, r"vector_in_(in|out)_layer", _EMBEDDERS),
            *(_JOINT, _JOINT_MLP, _SINGLE),
            "te[23] encoder_.+",
        ),
    ),
    Architecture(
        ("Flux.2",),
        _any(
            *(_DOUBLE, _FLUX_ENDS, _TIMED, _JOINT, r"norm_out_linear"),
            r"(double|single)_stream_modulation_\w+|time_(guidance|text)_embed_\w+",
            r"transformer_blocks_\d+_ff(_context)?_linear_(in|out)",
            r"single_transformer_blocks_\d+_attn_(to_qkv_mlp_proj|to_out|norm_[qk])",
        ),
    ),
    Architecture(
        ("Chroma",),
        _any(
            *(_DOUBLE, _FLUX_ENDS, _JOINT, _SINGLE, "distilled_guidance_layer_.+"),
            r"transformer_blocks_\d+_ff(_context)?_net_(0_proj|2)",
        ),
    ),
    Architecture(
        ("Qwen-Image",),
        _any(
            rf"transformer_blocks_\d+_(img|txt)_(mlp_net_(0_proj|2)|mod_1)|{_JOINT}|{_EMBEDDERS}",
            r"(img|txt)_in|txt_norm",
        ),
    ),
    Architecture(
        ("HunyuanVideo",),
        _any(
            *(_DOUBLE, _MODULATED, _TIMED, r"vector_in_(in|out)_layer", "final_layer_linear"),
            r"double_blocks_\d+_(img|txt)_(mod_linear|mlp_fc[12]|attn_[qk]_norm)",
            r"single_blocks_\d+_(modulation_linear|[qk]_norm)|(time|guidance|vector)_in_mlp_[02]",
            r"img_in_proj|txt_in_.+",
            *(_JOINT, _JOINT_MLP, _SINGLE, _EMBEDDERS, "x_embedder_proj|context_embedder_.+"),
        ),
    ),
    Architecture(
        ("Wan",),
        _any(
            r"blocks_\d+_((self|cross)_attn_([qkvo](_img)?|norm_\w+)|ffn_[02]|norm3)",
            r"(text|time)_embedding_[02]|time_projection_1|head_head|patch_embedding|img_emb_.+",
        ),
    ),
    Architecture(("Lumina 2", "Z-Image"), _NEXT_DIT),
    Architecture(
        ("Cosmos",),
        _any(
            *(_COSMOS, _CROSS, r"transformer_blocks_\d+_norm[123]_linear_[12]", "affline_norm"),
            r"blocks_block\d+_blocks_\d_\w+|final_layer_adaLN_modulation_[12]|norm_out_linear_[12]",
        ),
    ),
    Architecture(
        ("Anima",),
        _any(_COSMOS, _CROSS, r"transformer_blocks_\d+_norm[123]_linear_[12]", "llm_adapter_.+"),
        always="llm_adapter_.+",
    ),
    Architecture(
        ("PixArt",),
        _any(
            r"blocks_\d+_(attn_(qkv|proj)|cross_attn_(q_linear|kv_linear|proj)|mlp_fc[12])",
            r"(t|csize|ar)_embedder_mlp_[02]|t_block_1|y_embedder_y_proj_fc[12]|x_embedder_proj",
            rf"final_layer_linear|{_CROSS}|adaln_single_.+|caption_projection_.+|proj_out",
            "pos_embed_proj",
        ),
    ),
    Architecture(
        ("LTX-Video",),
        _any(_CROSS, "adaln_single_.+|caption_projection_.+|proj_(in|out)|patchify_proj"),
    ),
    Architecture(
        ("AuraFlow",),
        _any(
            r"(double|single)_layers_\d+_\w+|joint_transformer_blocks_\d+_\w+",
            rf"single_transformer_blocks_\d+_(attn_{_QKVO}|norm1_linear|ff_(linear_[12]|out_\w+))",
            r"cond_seq_linear|init_x_linear|final_linear|modF_1|t_embedder_mlp_[02]",
            r"time_step_proj_linear_[12]|context_embedder|pos_embed_proj|proj_out|norm_out_linear",
        ),
    ),
)
UNKNOWN = "unknown"
_CLIP = "a CLIP text encoder"


def guess_architectures(names: Iterable[str], complete: bool = False) -> tuple[str, ...]:
    """The models all of whose module names may be these; () where there are none.

    Names that no architecture has are passed over, and those of text encoders that many have.

    Args:
        names: of modules, in any tool's spelling.
        complete: whether they are all of a model's, as a LoRA's need not be.
    """
    found = {canonical_name(name) for name in names}
    fits = [{row for row in ARCHITECTURES if row.has(name)} for name in found]
    known = list(filter(None, fits))
    rows = set.intersection(*known) if known else set()
    if complete:
        rows = {row for row in rows if any(re.fullmatch(row.always, name) for name in found)}
    return tuple(name for row in ARCHITECTURES if row in rows for name in row.names)


def guess_architecture(names: Iterable[str], complete: bool = False) -> str:
    """The same in words: "Flux, SD3 or Qwen-Image", or "unknown"."""
    names = list(names)
    found = guess_architectures(names, complete)
    if found:
        return one_of(found)
    texts = [canonical_name(name) for name in names if is_text_encoder(name)]
    return _CLIP if any(" text_model_" in text for text in texts) else UNKNOWN


def one_of(names: Sequence[str]) -> str:
    """As "A, B or C"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
