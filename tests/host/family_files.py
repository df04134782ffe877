"""A file of each adapter family for the modules of the small SD1.5, with random values.

The layouts are those that LyCORIS and kohya's trainer write; tests/core compares our reading of
them with those libraries. Here the host reads the same file.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from fixtures.stable_diffusion import small_sd15_checkpoint

from .small_sd15 import lora_shapes

RANK, ALPHA = 4, 2.0
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Shape:
    """Of a weight: out x into, and the kernel of a convolution."""

    out: int
    into: int
    kernel: tuple[int, ...]

    @property
    def inputs(self) -> int:
        return self.into * math.prod(self.kernel)

    @property
    def ones(self) -> tuple[int, ...]:
        return tuple(1 for _ in self.kernel)

    @property
    def whole(self) -> tuple[int, ...]:
        return (self.out, self.into, *self.kernel)


class Values:
    """Random tensors with entries of the size that makes updates of about the weights' size."""

    def __init__(self) -> None:
        self._random = torch.Generator().manual_seed(0)

    def __call__(self, *shape: int, scale: float = 0.3) -> torch.Tensor:
        return torch.randn(shape, generator=self._random) * scale

    def positive(self, *shape: int) -> torch.Tensor:
        return torch.rand(shape, generator=self._random) + 0.5


def lora(s: Shape, v: Values) -> Tensors:
    return {
        "lora_up.weight": v(s.out, RANK, *s.ones),
        "lora_down.weight": v(RANK, s.into, *s.kernel),
        "alpha": torch.tensor(ALPHA),
    }


def lora_without_alpha(s: Shape, v: Values) -> Tensors:
    return {k: t for k, t in lora(s, v).items() if k != "alpha"}


def locon_with_core(s: Shape, v: Values) -> Tensors:
    if math.prod(s.kernel) == 1:
        return lora(s, v)
    return {
        "lora_up.weight": v(s.out, RANK, 1, 1),
        "lora_mid.weight": v(RANK, RANK, *s.kernel),
        "lora_down.weight": v(RANK, s.into, 1, 1),
        "alpha": torch.tensor(ALPHA),
    }


def dora_on_outputs(s: Shape, v: Values) -> Tensors:
    return lora(s, v) | {"dora_scale": v.positive(s.out, 1, *s.ones)}


def dora_on_inputs(s: Shape, v: Values) -> Tensors:
    return lora(s, v) | {"dora_scale": v.positive(1, s.into, *s.ones)}


def loha(s: Shape, v: Values) -> Tensors:
    return {
        "hada_w1_a": v(s.out, RANK),
        "hada_w1_b": v(RANK, s.inputs),
        "hada_w2_a": v(s.out, RANK),
        "hada_w2_b": v(RANK, s.inputs),
        "alpha": torch.tensor(ALPHA),
    }


def loha_with_core(s: Shape, v: Values) -> Tensors:
    if math.prod(s.kernel) == 1:
        return loha(s, v)
    halves: Tensors = {"alpha": torch.tensor(ALPHA)}
    for half in ("1", "2"):
        halves |= {
            f"hada_t{half}": v(RANK, RANK, *s.kernel),
            f"hada_w{half}_a": v(RANK, s.out),
            f"hada_w{half}_b": v(RANK, s.into),
        }
    return halves


def lokr(s: Shape, v: Values) -> Tensors:
    return {
        "lokr_w1": v(2, 2),
        "lokr_w2_a": v(s.out // 2, RANK),
        "lokr_w2_b": v(RANK, s.inputs // 2),
        "alpha": torch.tensor(ALPHA),
    }


def lokr_of_full_factors(s: Shape, v: Values) -> Tensors:
    """With an alpha that means nothing here, so that using it would show."""
    w2 = v(s.out // 2, s.into // 2, *s.kernel)
    return {"lokr_w1": v(2, 2), "lokr_w2": w2, "alpha": torch.tensor(ALPHA)}


def dokr(s: Shape, v: Values) -> Tensors:
    return lokr(s, v) | {"dora_scale": v.positive(s.out, 1, *s.ones)}


def glora(s: Shape, v: Values) -> Tensors:
    return {
        "a1.weight": v(s.into, RANK, *s.ones),
        "a2.weight": v(RANK, s.into, *s.ones),
        "b1.weight": v(s.out, RANK, *s.ones),
        "b2.weight": v(RANK, s.into, *s.kernel),
        "alpha": torch.tensor(ALPHA),
    }


def glora_of_old_lycoris(s: Shape, v: Values) -> Tensors:
    """Transposed, as LyCORIS wrote it until 2024; it never had kernels."""
    if math.prod(s.kernel) > 1:
        return lora(s, v)
    return {
        "a1.weight": v(RANK, s.into, *s.ones),
        "a2.weight": v(s.into, RANK, *s.ones),
        "b1.weight": v(RANK, s.into, *s.ones),
        "b2.weight": v(s.out, RANK, *s.ones),
        "alpha": torch.tensor(ALPHA),
    }


def oft(s: Shape, v: Values) -> Tensors:
    return {"oft_blocks": v(s.out // 8, 8, 8)}


def boft(s: Shape, v: Values) -> Tensors:
    """With an alpha, a constraint here, of none: the host fails on one without."""
    return {"oft_blocks": v(3, s.out // 8, 8, 8), "alpha": torch.tensor(0.0)}


def difference(s: Shape, v: Values) -> Tensors:
    return {"diff": v(*s.whole, scale=0.02)}


def difference_with_bias(s: Shape, v: Values) -> Tensors:
    return difference(s, v) | {"diff_b": v(s.out)}


def replacement(s: Shape, v: Values) -> Tensors:
    return {"set_weight": v(*s.whole, scale=0.02)}


FAMILIES: dict[str, Callable[[Shape, Values], Tensors]] = {
    f.__name__: f
    for f in (
        *(lora, lora_without_alpha, locon_with_core, dora_on_outputs, dora_on_inputs),
        *(loha, loha_with_core, lokr, lokr_of_full_factors, dokr),
        *(glora, glora_of_old_lycoris, oft, boft),
        *(difference, difference_with_bias, replacement),
    )
}


def family_file(family: str) -> Tensors:
    """The whole file, under kohya's names."""
    values = Values()
    return {
        f"{name}.{part}": tensor.contiguous()
        for name, (out, into, *kernel) in lora_shapes(small_sd15_checkpoint()).items()
        for part, tensor in FAMILIES[family](Shape(out, into, tuple(kernel)), values).items()
    }
