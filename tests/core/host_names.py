"""Key maps as ComfyUI 0.33 makes them, for models of a block or two, 8 wide.

Written down from what it answers, so that the tests without ComfyUI have its fused weights, its
slices of them and its reordered ones.
"""

from collections.abc import Iterable, Mapping

import torch

from prolora.models.references import Slice, WeightRef

WIDTH = 8
_DOUBLE = {  # the diffusers library's names, of the image's half and of the text's
    "img": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "norm1.linear"),
    "txt": (
        *("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out"),
        *("ff_context.net.0.proj", "norm1_context.linear"),
    ),
}


def swap_halves(rows: torch.Tensor) -> torch.Tensor:
    """Scale and shift, which diffusers has the other way round."""
    return torch.cat(rows.chunk(2, dim=0)[::-1])


def _direct(modules: Iterable[str]) -> dict[str, WeightRef]:
    names = {}
    for module in modules:
        ref = WeightRef(f"diffusion_model.{module}.weight")
        names |= {f"lora_unet_{module.replace('.', '_')}": ref, f"diffusion_model.{module}": ref}
    return names


def _spelled(places: Mapping[str, WeightRef], *spellings: str) -> dict[str, WeightRef]:
    names = {}
    for module, ref in places.items():
        for spelling in spellings:
            names[spelling.format(dotted=module, flat=module.replace(".", "_"))] = ref
    return names


def _thirds(module: str, names: Iterable[str]) -> dict[str, WeightRef]:
    key = f"diffusion_model.{module}.weight"
    return {n: WeightRef(key, Slice(0, i * WIDTH, WIDTH)) for i, n in enumerate(names)}


def flux() -> dict[str, WeightRef]:
    """Fused q, k, v (and mlp) by the authors' names; their parts by those of diffusers."""
    modules = ["double_blocks.0." + m for h in _DOUBLE for m in _flux_half(h)]
    modules += [f"single_blocks.0.{m}" for m in ("linear1", "linear2", "modulation.lin")]
    modules += ["img_in", "final_layer.adaLN_modulation.1"]
    places: dict[str, WeightRef] = {}
    for half, (q, k, v, out, mlp, mod) in _DOUBLE.items():
        start, block = "transformer_blocks.0", f"double_blocks.0.{half}"
        places |= _thirds(f"{block}_attn.qkv", [f"{start}.attn.{name}" for name in (q, k, v)])
        rest = {f"attn.{out}": "attn.proj", mlp: "mlp.0", mod: "mod.lin"}
        for name, module in rest.items():
            places[f"{start}.{name}"] = WeightRef(f"diffusion_model.{block}_{module}.weight")
    single = "single_transformer_blocks.0"
    places |= _thirds("single_blocks.0.linear1", [f"{single}.attn.to_{p}" for p in "qkv"])
    linear1, linear2 = (f"diffusion_model.single_blocks.0.linear{i}.weight" for i in (1, 2))
    places[f"{single}.proj_mlp"] = WeightRef(linear1, Slice(0, 3 * WIDTH, 4 * WIDTH))
    places[f"{single}.attn.to_qkv_mlp_proj"] = WeightRef(linear1)  # Flux.2
    places[f"{single}.proj_out"] = places[f"{single}.attn.to_out"] = WeightRef(linear2)
    places["x_embedder"] = WeightRef("diffusion_model.img_in.weight")
    final = "diffusion_model.final_layer.adaLN_modulation.1.weight"
    places["norm_out.linear"] = WeightRef(final, None, halves_swapped=True)
    spellings = ("transformer.{dotted}", "lycoris_{flat}", "lora_transformer_{flat}", "{dotted}")
    qkv = {"diffusion_model.single_blocks.0.linear1_qkv": Slice(0, 0, 3 * WIDTH)}
    return (
        _direct(modules)
        | _spelled(places, *spellings)
        | {name: WeightRef(linear1, part) for name, part in qkv.items()}
    )


def _flux_half(half: str) -> list[str]:
    return [f"{half}_{module}" for module in ("attn.qkv", "attn.proj", "mlp.0", "mod.lin")]


def z_image() -> dict[str, WeightRef]:
    """Both the fused qkv and its parts under `diffusion_model.`."""
    modules = [f"layers.0.{m}" for m in ("attention.qkv", "attention.out", "feed_forward.w1")]
    places = _thirds("layers.0.attention.qkv", [f"layers.0.attention.to_{p}" for p in "qkv"])
    out = WeightRef("diffusion_model.layers.0.attention.out.weight")
    places["layers.0.attention.to_out.0"] = out
    w1 = WeightRef("diffusion_model.layers.0.feed_forward.w1.weight")
    places["layers.0.feed_forward.w1"] = w1
    spellings = ("diffusion_model.{dotted}", "transformer.{dotted}", "lycoris_{flat}", "{dotted}")
    return _direct(modules) | _spelled(places, *spellings)


def wan() -> dict[str, WeightRef]:
    """The authors' names alone."""
    attention = [f"{a}.{p}" for a in ("self_attn", "cross_attn") for p in "qkvo"]
    modules = [f"blocks.0.{m}" for m in (*attention, "cross_attn.k_img", "ffn.0", "ffn.2")]
    return _direct([*modules, "text_embedding.0", "time_projection.1"])


def text_encoders() -> dict[str, WeightRef]:
    """CLIP-L and T5 as they are beside Flux."""
    clip, t5 = "text_model.encoder.layers.0.mlp.fc1", "encoder.block.0.layer.0.SelfAttention.q"
    clip_l = WeightRef(f"clip_l.transformer.{clip}.weight")
    t5xxl = WeightRef(f"t5xxl.transformer.{t5}.weight")
    flat, t5_flat = clip.replace(".", "_"), t5.replace(".", "_")
    starts = (f"lora_te_{flat}", f"lora_te1_{flat}", f"text_encoder.{clip}")
    return {
        **dict.fromkeys((*starts, f"text_encoders.clip_l.transformer.{clip}"), clip_l),
        **dict.fromkeys((f"lora_te2_{t5_flat}", f"lora_te3_{t5_flat}"), t5xxl),
        f"text_encoders.t5xxl.transformer.{t5}": t5xxl,
    }


def rows_of(names: Mapping[str, WeightRef], key: str) -> int:
    """The outputs of a weight."""
    parts = [ref.part for ref in names.values() if ref.key == key and ref.part is not None]
    return max((part.start + part.length for part in parts), default=2 * WIDTH)
