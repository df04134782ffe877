"""Maps: what a version is asked, what it answers, and the changes that LoRAs are to learn."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from .models import network
from .unet import SIGMA_MAX

SIDE = 64  # pixels of a map; the package's own has 128, at four times the cost
SIGMA_LOW = 5.0  # the lowest noise level; both versions draw a map in one step from 80
LABELS, HELD_OUT_EVERY = 100, 5  # difficulties, and which of them no LoRA is trained on
POOL, HELD_OUT = 128, 32  # noised maps to train on, and to judge by
BATCH = 16
SEA = -0.4  # a height in the model's space, [-1, 1]; about half of the land lies lower

Change = Callable[[torch.Tensor], torch.Tensor]


def flooded(maps: torch.Tensor) -> torch.Tensor:
    """Nothing lies below the sea."""
    return maps.clamp_min(SEA)


def inverted(maps: torch.Tensor) -> torch.Tensor:
    """Mountains are valleys."""
    return -maps


CHANGES: Mapping[str, Change] = {"flooded": flooded, "inverted": inverted}


@dataclass(frozen=True)
class Asked:
    """Noised maps of a version's own, and what it answers.

    Attributes:
        noised: N x 1 x SIDE x SIDE.
        sigmas, difficulties: N.
        answers: the predicted clean maps, like `noised`.
    """

    noised: torch.Tensor
    sigmas: torch.Tensor
    difficulties: torch.Tensor
    answers: torch.Tensor

    def __len__(self) -> int:
        return len(self.sigmas)


def difficulties(count: int, generator: torch.Generator, is_held_out: bool) -> torch.Tensor:
    """Random ones of those that are held out, or of the others."""
    every = torch.arange(LABELS)
    labels = every[(every % HELD_OUT_EVERY == 0) == is_held_out]
    return labels[torch.randint(len(labels), (count,), generator=generator)] / (LABELS - 1)


def levels(count: int, generator: torch.Generator) -> torch.Tensor:
    """Noise levels from SIGMA_LOW to SIGMA_MAX, even in their logarithm."""
    return SIGMA_MAX * (SIGMA_LOW / SIGMA_MAX) ** torch.rand(count, generator=generator)


@torch.no_grad()
def drawn(unet: nn.Module, of: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Maps of some difficulties, in one step from noise, as the package draws them."""
    noise = SIGMA_MAX * torch.randn(len(of), 1, SIDE, SIDE, generator=generator)
    return answers(unet, noise, torch.full_like(of, SIGMA_MAX), of)


@torch.no_grad()
def answers(
    unet: nn.Module, noised: torch.Tensor, sigmas: torch.Tensor, of: torch.Tensor
) -> torch.Tensor:
    parts = zip(*(given.split(BATCH) for given in (noised, sigmas, of)), strict=True)
    return torch.cat([unet(*part) for part in parts])


@cache
def asked(version: str, is_held_out: bool) -> Asked:
    """What a version's LoRAs are trained on, or judged by."""
    generator = torch.Generator().manual_seed(2 + is_held_out)
    unet, count = network(version), HELD_OUT if is_held_out else POOL
    of = difficulties(count, generator, is_held_out)
    clean, sigmas = drawn(unet, of, generator), levels(count, generator)
    noised = clean + sigmas.view(-1, 1, 1, 1) * torch.randn(clean.shape, generator=generator)
    return Asked(noised, sigmas, of, answers(unet, noised, sigmas, of))
