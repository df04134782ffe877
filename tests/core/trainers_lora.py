"""What trainers save of LoRA, LoHa, LoKr and differences; see trainers.py."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from .trainers import CONV, LINEAR, Case, Cases, flat, named, normal, saved_by

# --- LoRA

# Tool -> module's name, what follows it, the up's and the down's own names, whether alpha is saved.
PAIRS = {
    "kohya's sd-scripts": ("lora_unet_mid", ".", "lora_up.weight", "lora_down.weight", True),
    "musubi-tuner": ("lora_unet_blocks_0_ffn_0", ".", "lora_up.weight", "lora_down.weight", True),
    "ComfyUI": ("diffusion_model.mid", ".", "lora_up.weight", "lora_down.weight", True),
    "SimpleTuner": ("transformer.mid", ".", "lora_B.weight", "lora_A.weight", False),
    "diffusion-pipe": ("diffusion_model.mid", ".", "lora_B.weight", "lora_A.weight", False),
    "DiffSynth": ("mid", ".", "lora_B.default.weight", "lora_A.default.weight", False),
    "diffusers before 0.20": (
        *("unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q", "_"),
        *("lora.up.weight", "lora.down.weight", False),
    ),
    "Mochi's trainer": ("blocks.0.attn.qkv_x", ".", "lora_B", "lora_A", False),
}


def low_rank(up: Tensor, down: Tensor, scale: float = 1.0) -> np.ndarray:
    return scale * (flat(up) @ flat(down))


def pair(shape: tuple[int, ...], rank: int = 4) -> tuple[Tensor, Tensor]:
    up = normal(shape[0], rank, *(1 for _ in shape[2:]), seed=1)
    return up, normal(rank, *shape[1:], seed=2)


def plain_lora(tool: str) -> Cases:
    module, joint, up_name, down_name, has_alpha = PAIRS[tool]

    def cases() -> Iterator[Case]:
        for shape in (LINEAR, CONV):
            weight, (up, down) = normal(*shape), pair(shape)
            stored = (up.flatten(1), down.flatten(1)) if tool == "ComfyUI" else (up, down)
            tensors = named(module, joint, {up_name: stored[0], down_name: stored[1]})
            if has_alpha:  # 4 x 4 / 4 without one: the alpha equals the rank
                tensors |= named(module, ".", {"alpha": 2.0})
            change = low_rank(up, down, 2 / 4 if has_alpha else 1)
            yield Case(tensors, weight, flat(weight) + change)

    return cases


for _tool in PAIRS:
    saved_by(_tool, "LoRA")(plain_lora(_tool))


def onetrainer_s_formats(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Of a module transformer.mid: KOHYA and LEGACY flatten its name, COMFY and ORIGINAL have A and
    B, DIFFUSERS these without alpha (see onetrainer_lora)."""
    for module in ("lora_unet_mid", "lora_transformer_mid", "transformer.mid"):
        yield named(module, ".", tensors)
    halves = {"lora_up.weight": "lora_B.weight", "lora_down.weight": "lora_A.weight"}
    for module in ("diffusion_model.mid", "mid"):
        yield named(module, ".", {halves.get(part, part): t for part, t in tensors.items()})


@saved_by("OneTrainer", "LoRA")
def onetrainer_lora() -> Iterator[Case]:
    for shape in (LINEAR, CONV):
        weight, (up, down) = normal(*shape), pair(shape)
        changed = flat(weight) + low_rank(up, down, 2 / 4)
        tensors = {"lora_up.weight": up, "lora_down.weight": down, "alpha": torch.tensor(2.0)}
        for saved in onetrainer_s_formats(tensors):
            yield Case(saved, weight, changed)
        folded = {"lora_B.weight": up * 2 / 4, "lora_A.weight": down}
        yield Case(named("transformer.mid", ".", folded), weight, changed)


@saved_by("ai-toolkit", "LoRA")
def ai_toolkit_lora() -> Iterator[Case]:
    """A transformer's in PEFT's names, alpha being the rank; a UNet's in kohya's, with alpha."""
    weight, (up, down) = normal(*LINEAR), pair(LINEAR)
    tensors = named("diffusion_model.mid", ".", {"lora_B.weight": up, "lora_A.weight": down})
    yield Case(tensors, weight, flat(weight) + low_rank(up, down))
    parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": 1.0}
    yield Case(named("lora_unet_mid", ".", parts), weight, flat(weight) + low_rank(up, down, 1 / 4))


# --- LoHa and LoKr


def kron(w1: Tensor, w2: Tensor) -> np.ndarray:
    """Of a whole w1 with w2, whose kernel stays innermost."""
    product = np.kron(w1.double().numpy().reshape(*w1.shape, *(1,) * (w2.ndim - 2)), w2.double())
    return product.reshape(len(product), -1)


def loha(module: str, alpha: float, *shapes: tuple[int, ...]) -> Iterator[Case]:
    for shape in shapes:
        weight, n = normal(*shape), math.prod(shape[1:])
        (a1, b1), (a2, b2) = ((normal(shape[0], 3, seed=s), normal(3, n, seed=s)) for s in (5, 6))
        parts = {"hada_w1_a": a1, "hada_w1_b": b1, "hada_w2_a": a2, "hada_w2_b": b2}
        update = alpha / 3 * (flat(a1) @ flat(b1)) * (flat(a2) @ flat(b2))
        yield Case(named(module, ".", {**parts, "alpha": alpha}), weight, flat(weight) + update)


@saved_by("OneTrainer", "LoHa")
def onetrainer_loha() -> Iterator[Case]:
    """A convolution's factors have the kernel's axes."""
    for case in loha("lora_unet_mid", 2.0, LINEAR, CONV):
        stored = {
            key: tensor.reshape(3, *case.weight.shape[1:]) if key.endswith("_b") else tensor
            for key, tensor in case.tensors.items()
        }
        for key in ("lora_unet_mid.hada_w1_a", "lora_unet_mid.hada_w2_a"):
            stored[key] = stored[key].reshape(-1, 3, *(1 for _ in case.weight.shape[2:]))
        yield Case(stored, case.weight, case.changed)


@saved_by("musubi-tuner", "LoHa")
def musubi_loha() -> Iterator[Case]:
    return loha("lora_unet_blocks_0_ffn_0", 2.0, LINEAR)


@saved_by("ComfyUI", "LoHa")
def comfyui_loha() -> Iterator[Case]:
    return loha("diffusion_model.mid", 1.0, LINEAR, CONV)


def lokr(module: str, alpha: float, *shapes: tuple[int, ...]) -> Iterator[Case]:
    """Both factors whole, where the trainers have a scale of 1; `alpha` is what they save."""
    for shape in shapes:
        weight = normal(*shape)
        w1, w2 = normal(4, 2, seed=3), normal(shape[0] // 4, shape[1] // 2, *shape[2:], seed=4)
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            parts = {"lokr_w1": w1, "lokr_w2": w2, "alpha": torch.tensor(alpha)}
            tensors = {key: t.to(dtype) for key, t in named(module, ".", parts).items()}
            halves = (t for key, t in tensors.items() if not key.endswith("alpha"))
            yield Case(tensors, weight, flat(weight) + kron(*halves))


def factored_lokr(module: str, alpha: float | None) -> Iterator[Case]:
    """The scale is alpha over the rank of w2."""
    weight, w1 = normal(*LINEAR), normal(4, 2, seed=3)
    a, b = normal(6, 2, seed=4), normal(2, 8, seed=5)
    tensors = named(module, ".", {"lokr_w1": w1, "lokr_w2_a": a, "lokr_w2_b": b})
    if alpha is not None:
        tensors |= named(module, ".", {"alpha": alpha})
    yield Case(tensors, weight, flat(weight) + kron(w1, a @ b) * (alpha or 2) / 2)


@saved_by("ai-toolkit", "LoKr")
def ai_toolkit_lokr() -> Iterator[Case]:
    """lokr_full_rank, the default, is the rank 9999999999: both factors whole, and that alpha."""
    yield from lokr("diffusion_model.mid", 9999999999.0, LINEAR, CONV)
    yield from factored_lokr("lycoris_mid", 2.0)  # old_lokr_format


@saved_by("OneTrainer", "LoKr")
def onetrainer_lokr() -> Iterator[Case]:
    yield from lokr("lora_unet_mid", 16.0, LINEAR, CONV)
    yield from factored_lokr("lora_unet_mid", 3.0)
    # decompose_both where w2 is whole: the rank is that of w1
    weight, w2 = normal(*LINEAR), normal(6, 8, seed=4)
    a, b = normal(4, 1, seed=5), normal(1, 2, seed=6)
    parts = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2": w2, "alpha": 3.0}
    yield Case(named("lora_unet_mid", ".", parts), weight, flat(weight) + 3 * kron(a @ b, w2))


@saved_by("musubi-tuner", "LoKr")
def musubi_lokr() -> Iterator[Case]:
    yield from lokr("lora_unet_blocks_0_ffn_0", 32.0, LINEAR)
    yield from factored_lokr("lora_unet_blocks_0_ffn_0", 3.0)


@saved_by("AkaneTendo25's musubi-tuner", "LoKr")
def akane_lokr() -> Iterator[Case]:
    """decompose_both cuts the rank of w1; where w2 is whole the file has the rank it scales by."""
    weight, w2 = normal(*LINEAR), normal(6, 8, seed=4)
    a, b = normal(4, 2, seed=5), normal(2, 2, seed=6)
    parts = {"lokr_w1_a": a, "lokr_w1_b": b, "lokr_w2": w2, "alpha": 3.0, "lokr_dim": 8.0}
    changed = flat(weight) + 3 / 8 * kron(a @ b, w2)
    yield Case(named("lora_unet_mid", ".", parts), weight, changed)


@saved_by("ComfyUI", "LoKr")
def comfyui_lokr() -> Iterator[Case]:
    return lokr("diffusion_model.mid", 1.0, LINEAR, CONV)


@saved_by("diffusion-pipe", "LoKr")
def diffusion_pipe_lokr() -> Iterator[Case]:
    """PEFT's, with alpha as the rank and without one in the file."""
    return factored_lokr("diffusion_model.mid", None)


# --- Differences


@saved_by("ComfyUI", "full difference")
@saved_by("ai-toolkit", "full difference")
@saved_by("LightX2V", "full difference")
def differences() -> Iterator[Case]:
    """ComfyUI's extraction, ai-toolkit's full_if_contains, LightX2V's extraction."""
    for shape in (LINEAR, CONV):
        weight, diff = normal(*shape), normal(*shape, seed=1)
        tensors = named("diffusion_model.mid", ".", {"diff": diff})
        yield Case(tensors, weight, flat(weight) + flat(diff))


VECTORS = "differences of norms and biases, and set weights"


@saved_by("ComfyUI", VECTORS)
def comfyui_vectors() -> Iterator[Case]:
    """Its trainer has a difference of every norm and bias; a control LoRA's norms are set."""
    vector = normal(24)
    for role in ("diff", "diff_b", "set_weight"):
        yield Case(
            named("diffusion_model.mid", ".", {role: vector}), normal(24), None, {role: vector}
        )


@saved_by("ai-toolkit", VECTORS)
def ai_toolkit_vectors() -> Iterator[Case]:
    """Differences with all_layers; with use_bias the up has a bias, scaled like its product."""
    vector, weight, (up, down) = normal(24), normal(*LINEAR), pair(LINEAR)
    for role in ("diff", "diff_b"):
        yield Case(
            named("diffusion_model.mid", ".", {role: vector}), normal(24), None, {role: vector}
        )
    parts = {"lora_up.weight": up, "lora_down.weight": down, "lora_up.bias": vector, "alpha": 2.0}
    changed = flat(weight) + low_rank(up, down, 2 / 4)
    yield Case(named("lora_unet_mid", ".", parts), weight, changed, {"diff_b": vector * 2 / 4})


@saved_by("ComfyUI", "beside any family")
def comfyui_padding() -> Iterator[Case]:
    """lora_convert.py, for Flux's control LoRAs: the sides that the weight is padded to."""
    up, down = pair((24, 32))
    padded = torch.cat([normal(24, 16), torch.zeros(24, 16)], dim=1)
    parts = {"lora_B.weight": up, "lora_A.weight": down, "reshape_weight": torch.tensor([24, 32])}
    tensors = named("diffusion_model.img_in", ".", parts)
    yield Case(tensors, padded, flat(padded) + low_rank(up, down))


@saved_by("OneTrainer", "bundled embeddings")
def onetrainer_embeddings() -> Iterator[Case]:
    """Beside a LoRA; what each word's tensor is called says which text encoder it is for."""
    for case in onetrainer_lora():
        words = {f"bundle_emb.word.{encoder}": normal(2, 8) for encoder in ("clip_l", "t5_out")}
        yield Case({**case.tensors, **words}, case.weight, case.changed)


@saved_by("LyCORIS in 2023", "the OFT of early LyCORIS")
def early_oft() -> Iterator[Case]:
    yield Case(named("lycoris_mid", ".", {"oft_diag": normal(6, 4, 4)}), normal(24, 16), None)


@saved_by("LightX2V", "modulation difference")
def modulation() -> Iterator[Case]:
    tensors = named("diffusion_model.blocks.0", ".", {"diff_m": normal(1, 6, 8)})
    yield Case(tensors, normal(1, 6, 8), None)
