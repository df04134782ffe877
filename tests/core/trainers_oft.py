"""What trainers save of OFT, and of OFT with more beside it; see trainers.py."""

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from .trainers import CONV, Case, flat, named, normal, saved_by

ONETRAINER, AKANE, KOHYA = "lora_unet_mid", "lora_unet_blocks_0_ffn_0", "oft_unet_mid"


def turns(triangles: Tensor, divisor: float) -> list[np.ndarray]:
    """Blocks of I + 2 Q + 2 Q^2 + 2 Q^3 + Q^4, Q from the rows above its diagonal."""
    b = round((1 + math.sqrt(1 + 8 * triangles.shape[1])) / 2)
    found = []
    for row in triangles.double().numpy() / divisor:
        Q = np.zeros((b, b))
        Q[np.triu_indices(b, 1)] = row
        Q = Q - Q.T
        found.append(np.eye(b) + 2 * (Q + Q @ Q + Q @ Q @ Q) + Q @ Q @ Q @ Q)
    return found


def block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    diagonal: np.ndarray = torch.block_diag(*map(torch.from_numpy, blocks)).numpy()
    return diagonal


def turned_inputs(weight: Tensor, blocks: list[np.ndarray]) -> np.ndarray:
    """A linear layer's input x becomes x R; a convolution's weight W becomes W R."""
    n = weight[0].numel()
    R = block_diagonal(blocks * (n // sum(map(len, blocks))))
    return flat(weight) @ (R.T if weight.ndim == 2 else R)


def triangle(b: int) -> int:
    return b * (b - 1) // 2


@saved_by("OneTrainer", "OFT")
def onetrainer_oft() -> Iterator[Case]:
    """scaled_oft: the generator is divided by 2 sqrt(b - 1), b being the side of a block.

    oft_utils.py (OFTRotationModule.forward) and LoRAModule.py (OFTModule.forward), since c0638361.
    """
    for shape, b in (((24, 256), 8), ((24, 256), 32), ((24, 256), 64), ((24, 256), 128)):
        yield from _onetrainer_oft(normal(*shape), b, shape[1] // b)
    yield from _onetrainer_oft(normal(24, 16), 2, 8)
    yield from _onetrainer_oft(normal(24, 16), 4, 1)  # block_share
    for b in (2, 9, 27):
        yield from _onetrainer_oft(normal(*CONV), b, 54 // b)


def _onetrainer_oft(weight: Tensor, b: int, count: int) -> Iterator[Case]:
    for scaled in (True, False):
        stored = normal(count, triangle(b), std=1.0 if scaled else 0.5 / b)
        divisor = 2 * math.sqrt(b - 1) if scaled else 1
        tensors = named(ONETRAINER, ".", {"oft_R.weight": stored})
        if scaled:
            tensors |= named(ONETRAINER, ".", {"oft_R.scaled_oft": torch.tensor(True)})
        yield Case(tensors, weight, turned_inputs(weight, turns(stored, divisor)))


@saved_by("AkaneTendo25's musubi-tuner", "OFT")
def akane_oft() -> Iterator[Case]:
    """OneTrainer's; COFT first limits every block of Q to eps / sqrt(their number)."""
    for weight in (normal(24, 64), normal(12, 6, 2, 2)):
        b, count = 8, weight[0].numel() // 8
        for scaled, coft in ((True, False), (False, False), (True, True)):
            stored = normal(count, triangle(b), std=1.0 if scaled else 0.05)
            limited, eps = stored, 0.5
            if coft:
                norms = math.sqrt(2) * stored.norm(dim=1, keepdim=True)  # of Q, both triangles
                limited = stored * (eps / math.sqrt(count) / norms).clamp(max=1)
                assert (limited != stored).all()
            parts = {
                "oft_R.weight": stored,
                "alpha": float(b),
                "oft_block_size_metadata": float(b),
                "oft_block_share_metadata": 0.0,
                "oft_coft_metadata": float(coft),
                "coft_eps_metadata": eps,
                "scaled_oft_metadata": float(scaled),
            }
            if scaled:
                parts["oft_R.scaled_oft"] = 1.0
            blocks = turns(limited, 2 * math.sqrt(b - 1) if scaled else 1)
            yield Case(named(AKANE, ".", parts), weight, turned_inputs(weight, blocks))


def turned_outputs(A: Tensor, limit: float, weight: np.ndarray) -> np.ndarray:
    """R^T W for R = (I + Q) (I - Q)^-1 and Q = A - A^T, all blocks within one norm."""
    Q = (A - A.mT).double().numpy()
    norm = np.sqrt((Q**2).sum())
    Q = Q * (min(norm, limit) + 1e-8) / (norm + 1e-8)
    identity = np.eye(Q.shape[-1])
    R = (identity + Q) @ np.linalg.inv(identity - Q)
    return block_diagonal(list(R)).T @ weight


@saved_by("kohya's sd-scripts", "OFT")
def kohya_oft() -> Iterator[Case]:
    """Turned within alpha times the outputs; for Flux each part of a fused weight by itself."""
    for weight in (normal(24, 16), normal(12, 6, 3, 3)):
        m = len(weight)
        for alpha in (1e-3, 0.05, 1.0):
            A = normal(m // 4, 4, 4)
            tensors = named(KOHYA, ".", {"oft_blocks": A, "alpha": alpha})
            yield Case(tensors, weight, turned_outputs(A, alpha * m, flat(weight)))
    for sides in ((6,), (6, 6, 6), (6, 6, 6, 24)):  # in four blocks each
        weight = normal(4 * sum(sides), 16)
        for alpha in (1e-3, 0.05):
            parts = {f"oft_blocks.{i}": normal(4, b, b, seed=i) for i, b in enumerate(sides)}
            rows = np.split(flat(weight), np.cumsum([4 * b for b in sides])[:-1])
            turned = [
                turned_outputs(A, alpha * len(W), W)
                for A, W in zip(parts.values(), rows, strict=True)
            ]
            tensors = named(KOHYA, ".", {**parts, "alpha": alpha})
            yield Case(tensors, weight, np.concatenate(turned))
    untrained = named(KOHYA, ".", {"oft_blocks": normal(6, 4, 4), "alpha": 0.0})
    yield Case(untrained, normal(24, 16), flat(normal(24, 16)))


@saved_by("ComfyUI", "OFT")
def comfyui_oft() -> Iterator[Case]:
    """The limit is alpha itself, which its trainer saves as 1."""
    for weight in (normal(24, 16), normal(12, 6, 3, 3)):
        A = normal(len(weight) // 4, 4, 4)
        tensors = named("diffusion_model.mid", ".", {"oft_blocks": A, "alpha": 1.0})
        yield Case(tensors, weight, turned_outputs(A, 1.0, flat(weight)))


@saved_by("AkaneTendo25's musubi-tuner", "DoKr-OFT")
def dokr_oft() -> Iterator[Case]:
    """A LoKr that is added to a turned weight."""
    for case in akane_oft():
        w1, w2 = normal(2, 2), normal(12, len(case.weight[0]) // 2)
        m = case.weight.flatten(1).norm(dim=1)
        parts = {"lokr_w1": w1, "lokr_w2": w2, "lora_magnitude_vector.weight": m}
        yield Case({**case.tensors, **named(AKANE, ".", parts)}, case.weight, None)


@saved_by("drafts of OneTrainer's", "newer forms")
def drafted_oft() -> Iterator[Case]:
    """R is another: an exact rotation, at first of (I + Q), later exp(Q); or Q's norm is cut."""
    for mark in ("cans_oft", "cans_exp", "clipped_oft"):
        for case in onetrainer_oft():
            tensors = {**case.tensors, **named(ONETRAINER, ".", {f"oft_R.{mark}": 0.95})}
            yield Case(tensors, case.weight, None)
