"""A small diffusion model that runs, with a layer of each kind, and recordings of it."""

import copy
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from functools import cache

import torch
from torch import nn

from prolora.adapters import Adapter, AdapterFile
from prolora.models.model import Model
from prolora.models.references import Slice, WeightRef
from prolora.models.weights import StateDictWeights
from prolora.recording.network import Network, Prompt
from prolora.recording.record import Clean, RecordingSettings, record
from prolora.recording.recording import Recording
from prolora.recording.student import attached, free
from prolora.transfer.resolve import resolve

from .small_models import file_of, random_lora

WIDTH = 16
# Name in LoRA files -> the weight, and its rows where it is a part of it.
NAMES = {
    "conv_in": ("conv_in.weight", None),
    "qkv": ("blocks.0.qkv.weight", None),
    "q": ("blocks.0.qkv.weight", Slice(0, 0, WIDTH)),
    "k": ("blocks.0.qkv.weight", Slice(0, WIDTH, WIDTH)),
    "v": ("blocks.0.qkv.weight", Slice(0, 2 * WIDTH, WIDTH)),
    "proj": ("blocks.0.proj.weight", None),
    "text": ("blocks.0.text.weight", None),
    "level": ("level.weight", None),
    "conv_out": ("conv_out.weight", None),
}


class Block(nn.Module):
    """Attention over positions; adds the prompt's tokens, in place as some models of ComfyUI do."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH)
        self.text = nn.Linear(6, WIDTH)
        self.proj = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: torch.Tensor, *, tokens: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(x)
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        x = x + self.proj(nn.functional.scaled_dot_product_attention(q, k, v))
        return x + self.text(tokens).mean(dim=1, keepdim=True)


class Small(nn.Module):
    """Predicts a velocity: latents B x 4 x 8 x 8, tokens B x 3 x 6."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, WIDTH, 3, stride=2, padding=1)
        self.level = nn.Linear(1, WIDTH)
        self.blocks = nn.ModuleList([Block()])
        self.conv_out = nn.Conv2d(WIDTH, 16, 1)

    def forward(
        self, latents: torch.Tensor, sigmas: torch.Tensor, tokens: torch.Tensor
    ) -> torch.Tensor:
        x = self.conv_in(latents) + self.level(sigmas[:, None])[:, :, None, None]
        height, width = x.shape[2:]
        x = x.flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x, tokens=tokens)
        x = self.conv_out(x.transpose(1, 2).unflatten(2, (height, width)))
        return nn.functional.pixel_shuffle(x, 2)


@cache
def source() -> Small:
    torch.manual_seed(0)
    return Small().requires_grad_(False)


def drifted(amount: float = 0.4) -> Small:
    """A fine-tune of the source."""
    target = copy.deepcopy(source())
    generator = torch.Generator().manual_seed(1)
    for parameter in target.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.add_(amount * parameter.std(correction=0) * noise)
    return target


def model_of(module: nn.Module, name: str = "A", names: Sequence[str] = tuple(NAMES)) -> Model:
    """The core's Model of it."""
    refs = {lora: WeightRef(*NAMES[lora]) for lora in names}
    return Model(name, "Small", StateDictWeights(module.state_dict()), refs)


def network_of(module: Small, *on: object) -> Network:
    """The core's Network of it, with hooks that are entered whenever it runs."""

    def denoise(
        latents: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[Prompt]
    ) -> torch.Tensor:
        tokens = torch.cat([prompt.tensors["cross_attn"] for prompt in prompts])
        with ExitStack() as stack:
            for hooks in on:
                stack.enter_context(hooks())
            velocity = module(latents, sigmas, tokens)
        return latents - sigmas[:, None, None, None] * velocity

    return Network(
        root=module,
        layers={
            f"{name}.weight": layer
            for name, layer in module.named_modules()
            if isinstance(layer, (nn.Linear, nn.Conv2d))
        },
        denoise=denoise,
        output_scale=lambda sigmas: sigmas,
        noised=lambda clean, noise, sigmas: torch.lerp(clean, noise, sigmas[:, None, None, None]),
        again=nullcontext,
    )


def lora_file(*names: str, rank: int = 2, scale: float = 0.1) -> AdapterFile:
    """Random LoRAs for some modules, or for one of each kind."""
    names = names or ("conv_in", "qkv", "proj", "text", "level", "conv_out")
    shapes = {name: model_of(source()).shape(WeightRef(*NAMES[name])) for name in names}
    loras = [
        random_lora(name, shapes[name], rank, alpha=scale * rank, seed=10 * i)
        for i, name in enumerate(names)
    ]
    return file_of(*loras)


def with_lora(module: Small, adapters: Sequence[Adapter]) -> Network:
    """The network with a LoRA on it."""
    modules = free(adapters, model_of(module), network_of(module).layers)
    return network_of(module, lambda: attached(modules))


def clean(samples: int = 6, prompts: int = 3) -> Clean:
    generator = torch.Generator().manual_seed(2)
    latents = torch.randn(samples, 4, 8, 8, generator=generator)
    tokens = torch.randn(prompts, 1, 3, 6, generator=generator)
    made = tuple(
        Prompt({"cross_attn": t}, {"width": 8}, f"prompt {i}") for i, t in enumerate(tokens)
    )
    return Clean(latents, made, torch.arange(samples) % prompts)


def recorded(
    file: AdapterFile,
    settings: RecordingSettings | None = None,
    styled: bool = True,
    module: Small | None = None,
) -> Recording:
    """A recording of a LoRA of the source.

    Args:
        styled: whether its answers are with the LoRA, which must be one then.
        module: the source; the one of `source` if none is given.
    """
    module = module or source()
    settings = settings or RecordingSettings(levels=3, positions=90)
    given = clean()
    count = len(given.latents) * settings.levels
    return record(
        resolve(file, model_of(module)),
        network_of(module),
        with_lora(module, file.adapters) if styled else network_of(module),
        given,
        [(i + 0.5) / count for i in range(count)],
        "Small",
        settings,
    )
