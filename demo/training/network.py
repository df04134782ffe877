"""The demo's models as the core's Networks: plain torch modules, sampled as in flow.py."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import nn

from demo.emoji.prompt import encode_names
from demo.training.flow import shifted
from prolora.recording.network import Network, Prompt
from prolora.recording.record import Clean

UNET = "diffusion_model."  # what the core calls the weights of a diffusion model begins so


class Wearable(Protocol):
    """A LoRA, or anything else that a model can compute with for a while."""

    def on(self, model: nn.Module) -> AbstractContextManager[None]: ...


def network_of(model: nn.Module, lora: Wearable | None = None) -> Network:
    """A model, with a LoRA on it where one is given."""

    def denoise(
        latents: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[Prompt]
    ) -> torch.Tensor:
        context = torch.cat([prompt.tensors["cross_attn"] for prompt in prompts])
        pooled = torch.cat([prompt.tensors["pooled_output"] for prompt in prompts])
        with nullcontext() if lora is None else lora.on(model):
            v = model(latents, sigmas * 1000, context=context, y=pooled)
        return latents - sigmas.view(-1, 1, 1, 1) * v

    return Network(
        root=model,
        layers={
            f"{UNET}{name}.weight": layer
            for name, layer in model.named_modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d))
        },
        denoise=denoise,
        output_scale=lambda sigmas: sigmas,
        noised=lambda clean, noise, sigmas: torch.lerp(clean, noise, sigmas.view(-1, 1, 1, 1)),
    )


def prompts_of(names: Sequence[str]) -> tuple[Prompt, ...]:
    """The demo's prompts, as EmojiPrompt makes them."""
    context, pooled = encode_names(list(names))
    return tuple(
        Prompt({"cross_attn": tokens[None], "pooled_output": vector[None]}, text=name)
        for name, tokens, vector in zip(names, context, pooled, strict=True)
    )


def as_clean(latents: torch.Tensor, names: Sequence[str], negative: str | None = None) -> Clean:
    """Clean latents in the model's space, one for each name."""
    without = None if negative is None else prompts_of([negative])[0]
    return Clean(latents, prompts_of(names), torch.arange(len(names)), without)


def levels(count: int, seed: int) -> list[float]:
    """Noise levels over the whole schedule, a random one in each part of it."""
    generator = torch.Generator().manual_seed(seed)
    time = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    return [float(sigma) for sigma in shifted(time.clamp_min(1e-3))]
