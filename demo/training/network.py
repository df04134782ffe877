"""The demo's models as the core's Networks: plain torch modules, sampled as in flow.py."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from demo.emoji.prompt import encode_names
from demo.training.flow import process_in, sample
from prolora.recording.network import Network, Prompt
from prolora.recording.record import Clean

UNET = "diffusion_model."  # what the core calls the weights of a diffusion model


def network_of(model: nn.Module, lora: AbstractContextManager[None] | None = None) -> Network:
    """A model, with a LoRA on it where one is given (Lora.on), as a Network.

    Args:
        lora: entered once for each prediction, so it must be able to be; see `Worn`.
    """
    layers = {
        f"{UNET}{name}.weight": layer
        for name, layer in model.named_modules()
        if getattr(layer, "weight", None) is not None and layer.weight.ndim > 1
    }

    def denoise(
        latents: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[Prompt]
    ) -> torch.Tensor:
        context = torch.cat([prompt.tensors["cross_attn"] for prompt in prompts])
        pooled = torch.cat([prompt.tensors["pooled_output"] for prompt in prompts])
        with lora or nullcontext():
            v = model(latents, sigmas * 1000, context=context, y=pooled)
        return latents - sigmas.view(-1, 1, 1, 1) * v

    return Network(
        root=model,
        layers=layers,
        denoise=denoise,
        output_scale=lambda sigmas: sigmas,
        noised=lambda clean, noise, sigmas: torch.lerp(clean, noise, sigmas.view(-1, 1, 1, 1)),
    )


def prompts_of(names: Sequence[str]) -> tuple[Prompt, ...]:
    context, pooled = encode_names(list(names))
    return tuple(
        Prompt(
            {"cross_attn": context[row : row + 1], "pooled_output": pooled[row : row + 1]}, {}, name
        )
        for row, name in enumerate(names)
    )


def sampled(model: nn.Module, names: Sequence[str], seed: int, steps: int = 20) -> Clean:
    """Clean latents of a model, one for each name, without guidance."""
    latents = process_in(sample(model, *encode_names(list(names)), seed, steps))
    return Clean(latents, prompts_of(names), torch.arange(len(names)))
