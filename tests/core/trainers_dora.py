"""What trainers save of DoRA, over whatever family; see trainers.py."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .trainers import CONV, LINEAR, Case, flat, named, normal, saved_by
from .trainers_lora import kron, low_rank, pair
from .trainers_oft import AKANE, ONETRAINER, akane_oft, onetrainer_oft


def decomposed(whole: np.ndarray, shape: tuple[int, ...], m: Tensor, axis: int) -> np.ndarray:
    """m V / ||V||, its norms over all axes of the weight but one."""
    blocks = whole.reshape(*shape[:2], -1)
    norms = np.sqrt((blocks**2).sum(axis=(1, 2) if axis == 0 else (0, 2), keepdims=True))
    return (m.double().numpy().reshape(norms.shape) * blocks / norms).reshape(shape[0], -1)


def magnitude(weight: Tensor, axis: int) -> Tensor:
    """A trained one: the norms, off by a few percent; 1 along the other axes."""
    others = [i for i in range(weight.ndim) if i != axis]
    norms: Tensor = torch.linalg.vector_norm(weight, dim=others, keepdim=True)
    return norms * (1 + normal(norms.numel(), std=0.1, seed=7).reshape(norms.shape))


@saved_by("OneTrainer", "DoRA")
def onetrainer_dora() -> Iterator[Case]:
    """Over outputs or over inputs, a LoRA's and a LoKr's (no alpha counts where both are whole)."""
    for shape in (LINEAR, CONV):
        weight, (up, down) = normal(*shape), pair(shape)
        w1, w2 = normal(2, 2, seed=3), normal(shape[0] // 2, shape[1] // 2, *shape[2:], seed=4)
        lora = {"lora_up.weight": up, "lora_down.weight": down, "alpha": 2.0}
        lokr = {"lokr_w1": w1, "lokr_w2": w2, "alpha": 16.0}
        for axis in (0, 1):
            m = magnitude(weight, axis)
            for parts, update in ((lora, low_rank(up, down, 2 / 4)), (lokr, kron(w1, w2))):
                tensors = named("lora_unet_mid", ".", {**parts, "dora_scale": m})
                yield Case(tensors, weight, decomposed(flat(weight) + update, shape, m, axis))
        # DIFFUSERS: what PEFT reads, for outputs alone
        m = magnitude(weight, 0)
        peft = m.flatten() if weight.ndim == 2 else m.transpose(0, 1)
        parts = {"lora_B.weight": up * 2 / 4, "lora_A.weight": down}
        tensors = named("transformer.mid", ".", {**parts, "lora_magnitude_vector.weight": peft})
        yield Case(
            tensors, weight, decomposed(flat(weight) + low_rank(up, down, 2 / 4), shape, m, 0)
        )


@saved_by("ai-toolkit", "DoRA")
def ai_toolkit_dora() -> Iterator[Case]:
    """It adds (m / ||V|| - 1) V x to V x, with V = W + up down; m has an axis only."""
    weight, (up, down) = normal(*LINEAR), pair(LINEAR)
    m = magnitude(weight, 0)
    parts = {"lora_B.weight": up, "lora_A.weight": down, "magnitude": m.flatten()}
    V = flat(weight) + low_rank(up, down)
    yield Case(named("diffusion_model.mid", ".", parts), weight, decomposed(V, LINEAR, m, 0))


@saved_by("AkaneTendo25's musubi-tuner", "DoRA")
def akane_dora() -> Iterator[Case]:
    """A LoRA's, a LoKr's, and an OFT's, which has no norm of V but the one before it turned W."""
    weight, (up, down) = normal(*LINEAR), pair(LINEAR)
    m, norms = magnitude(weight, 0), weight.norm(dim=1, keepdim=True)
    parts = {"lora_up.weight": up, "lora_down.weight": down, "alpha": 2.0}
    tensors = named("lora_unet_mid", ".", {**parts, "lora_magnitude_vector.weight": m.flatten()})
    changed = decomposed(flat(weight) + low_rank(up, down, 2 / 4), LINEAR, m, 0)
    yield Case(tensors, weight, changed)

    w1, w2 = normal(2, 2, seed=3), normal(12, 8, seed=4)
    parts = {"lokr_w1": w1, "lokr_w2": w2, "alpha": 16.0, "initial_norm": norms.flatten()}
    tensors = named("lora_unet_mid", ".", {**parts, "lora_magnitude_vector.weight": m.flatten()})
    yield Case(tensors, weight, decomposed(flat(weight) + kron(w1, w2), LINEAR, m, 0))

    for turned in akane_oft():
        m, norms = magnitude(turned.weight, 0), magnitude_before(turned.weight)
        parts = {**turned.tensors, **named(AKANE, ".", {"dora_scale": m, "initial_norm": norms})}
        assert turned.changed is not None
        changed = flat(m.flatten(1) / norms.flatten(1)) * turned.changed
        yield Case(parts, turned.weight, changed)


def magnitude_before(weight: Tensor) -> Tensor:
    """The norms of the weight that was trained on, of which the source may be a copy in fp8."""
    norms: Tensor = torch.linalg.vector_norm(weight.flatten(1), dim=1)
    return (1.01 * norms).reshape(-1, *(1 for _ in weight.shape[1:]))


@saved_by("drafts of OneTrainer's", "DoRA")
def drafted_dora() -> Iterator[Case]:
    for turned in onetrainer_oft():
        assert turned.changed is not None
        factor = 1 + normal(len(turned.weight), std=0.1, seed=8)
        for name, stored in (("dora_multiplier", factor), ("dora_log_multiplier", factor.log())):
            tensors = {**turned.tensors, **named(ONETRAINER, ".", {name: stored})}
            changed = factor.double().numpy()[:, None] * turned.changed
            yield Case(tensors, turned.weight, changed)
