"""Rectified flow as ComfyUI samples SD3: v = noise - latent, timestep = 1000 sigma, shift 3."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import nn

SHIFT = 3.0
SCALE_FACTOR, SHIFT_FACTOR = 1.5305, 0.0609  # comfy.latent_formats.SD3


def process_in(latents: torch.Tensor) -> torch.Tensor:
    """Latents as nodes exchange them to latents as the model sees them."""
    return (latents - SHIFT_FACTOR) * SCALE_FACTOR


def process_out(latents: torch.Tensor) -> torch.Tensor:
    """The inverse of `process_in`."""
    return latents / SCALE_FACTOR + SHIFT_FACTOR


def shifted(time: torch.Tensor) -> torch.Tensor:
    """Uniform times in 0..1 to noise levels sigma, as the sampler's schedule spaces them."""
    return SHIFT * time / (1 + (SHIFT - 1) * time)


def noised(
    latents: torch.Tensor, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noised latents, their sigmas [N] and the velocity to learn; `latents` [N, 16, h, w] are in
    the model's space.

    Times are stratified over the batch, which lowers the variance of a loss.
    """
    count = len(latents)
    offsets = torch.rand(count, generator=generator)
    time = (torch.randperm(count, generator=generator) + offsets) / count
    sigma = shifted(time)
    noise = torch.randn(latents.shape, generator=generator)
    return torch.lerp(latents, noise, sigma.view(-1, 1, 1, 1)), sigma, noise - latents


def flow_loss(
    model: nn.Module,
    latents: torch.Tensor,
    context: torch.Tensor,
    pooled: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Mean squared error of v; `latents` [N, 16, h, w] are in the model's space."""
    inputs, sigma, velocity = noised(latents, generator)
    v = model(inputs, sigma * 1000, context=context, y=pooled)
    return (v - velocity).square().mean()


def noise_levels(steps: int) -> torch.Tensor:
    """The sampler's levels sigma from 1 to 0, one more than steps."""
    return shifted(torch.linspace(1, 0, steps + 1))


@torch.no_grad()
def euler(
    model: nn.Module, noise: torch.Tensor, context: torch.Tensor, pooled: torch.Tensor, steps: int
) -> Iterator[torch.Tensor]:
    """Give the latents at each noise level, the noise first; all in the model's space."""
    latents = noise
    yield latents
    for sigma, following in pairwise(noise_levels(steps)):
        v = model(latents, sigma.expand(len(context)) * 1000, context=context, y=pooled)
        latents = latents + (following - sigma) * v
        yield latents


def sample(
    model: nn.Module, context: torch.Tensor, pooled: torch.Tensor, seed: int, steps: int = 20
) -> torch.Tensor:
    """Euler sampling from noise, 8 x 8 latents; returns latents as nodes exchange them."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(context), 16, 8, 8, generator=generator)
    *_, latents = euler(model, noise, context, pooled, steps)
    return process_out(latents)
