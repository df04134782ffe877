"""Networks of the real shapes, and what is asked of them: a pass, a pass of two, a training step.

X-Adapter (Ran et al., CVPR 2024, arXiv 2312.02238; code: showlab/X-Adapter at e7348cb) runs SD1.5,
which has the LoRA, beside SDXL: what the last three blocks of its decoder put out goes through
trained mapping layers and is added to what SDXL's middle block and the first two blocks of its
decoder put out. The mapping layers are of that code's default sizes here: for each of the three,
three residual blocks of two 3 x 3 convolutions, the first one wider and the last one's first
upsampled where the two decoders differ, and a 1 x 1 convolution.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch import nn

from benchmarks.listening_sdxl import RANK, SDXL, SMALL, TARGETS, TOKENS

SD15 = {"sample_size": 64, "cross_attention_dim": 768}  # the rest are the class's defaults
SMALL_SD15 = {
    "block_out_channels": (32, 64, 64, 64),
    "attention_head_dim": 4,
    "norm_num_groups": 8,
}


@dataclass(frozen=True)
class Size:
    """What is run: the networks' figures and the sides of their latents."""

    sdxl: dict[str, Any]
    sd15: dict[str, Any]
    sdxl_side: int
    sd15_side: int


REAL = Size(SDXL, SD15, sdxl_side=128, sd15_side=64)  # 1024 and 512 pixels
HALF = Size(SDXL, SD15, sdxl_side=64, sd15_side=32)  # for a CPU
TINY = Size(SDXL | SMALL, SD15 | SMALL_SD15, sdxl_side=32, sd15_side=16)


class Residual(nn.Module):
    """Two convolutions beside a shortcut, after a wider one where the width changes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        same = inputs == outputs
        self.widen = nn.Identity() if same else nn.Conv2d(inputs, outputs, 3, padding=1)
        self.first = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.widen(x)
        return x + self.second(torch.relu(self.first(x)))


class Mapper(nn.Module):
    """From a feature of SD1.5 to one of SDXL."""

    def __init__(self, inputs: int, outputs: int, upsampled: bool) -> None:
        super().__init__()
        up = nn.ConvTranspose2d(inputs, inputs, 3, stride=2, padding=1, output_padding=1)
        self.body = nn.Sequential(
            up if upsampled else nn.Identity(),
            Residual(inputs, outputs),
            Residual(outputs, outputs),
            Residual(outputs, outputs),
            nn.Conv2d(outputs, outputs, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


@dataclass(frozen=True)
class Networks:
    """Both models, the mapping layers between them, and where they are."""

    sdxl: nn.Module
    sd15: nn.Module
    mappers: nn.ModuleList
    size: Size

    def jobs(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """What is timed and counted, each to be called before the next one."""
        yield "sdxl", self.run_sdxl
        yield "sd15", self.run_sd15
        yield "two models", self.run_two
        with self._learning():
            yield "training step", self.train

    @property
    def parameters(self) -> dict[str, int]:
        """How many each has, before there is a LoRA."""
        each = {"sdxl": self.sdxl, "sd15": self.sd15, "mappers": self.mappers}
        return {name: sum(p.numel() for p in of.parameters()) for name, of in each.items()}

    @torch.no_grad()
    def run_sdxl(self) -> torch.Tensor:
        return self._predict_sdxl()

    @torch.no_grad()
    def run_sd15(self) -> torch.Tensor:
        latents = self._random(1, 4, self.size.sd15_side, self.size.sd15_side)
        tokens = self._random(1, TOKENS, self.size.sd15["cross_attention_dim"])
        return self.sd15(latents, self._random(1), tokens, return_dict=False)[0]

    @torch.no_grad()
    def run_two(self) -> torch.Tensor:
        """A pass of SD1.5, of the mapping layers, and of SDXL with what they give."""
        features: list[torch.Tensor] = []
        with _hooked(self.sd15.up_blocks[1:], lambda _, found: features.append(found)):
            self.run_sd15()
        given = [mapper(feature) for mapper, feature in zip(self.mappers, features, strict=True)]
        places = [self.sdxl.mid_block, *self.sdxl.up_blocks[:2]]
        with _hooked(places, lambda index, found: found + given[index]):
            return self.run_sdxl()

    def train(self) -> None:
        """Forward and backward of a LoRA, each block computed again for its gradient."""
        self._predict_sdxl().square().mean().backward()
        self.sdxl.zero_grad(set_to_none=True)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        """SDXL with a LoRA as kohya's trainer attaches it by default."""
        sdxl = self.sdxl
        sdxl.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(TARGETS)))
        sdxl.enable_gradient_checkpointing()
        sdxl.train()
        try:
            yield
        finally:
            sdxl.eval()
            sdxl.disable_gradient_checkpointing()
            sdxl.unload_lora()

    def _predict_sdxl(self) -> torch.Tensor:
        latents = self._random(1, 4, self.size.sdxl_side, self.size.sdxl_side)
        tokens = self._random(1, TOKENS, self.size.sdxl["cross_attention_dim"])
        more = {"text_embeds": self._random(1, 1280), "time_ids": self._random(1, 6)}
        step = self._random(1)
        return self.sdxl(latents, step, tokens, added_cond_kwargs=more, return_dict=False)[0]

    def _random(self, *shape: int) -> torch.Tensor:
        like = next(self.sd15.parameters())
        return torch.randn(shape, device=like.device, dtype=like.dtype)


def built(size: Size, device: torch.device, dtype: torch.dtype) -> Networks:
    """Networks with random weights; on the meta device without any."""
    with torch.device("meta"):
        sdxl, sd15 = UNet2DConditionModel(**size.sdxl), UNet2DConditionModel(**size.sd15)
        widths = sd15.config.block_out_channels
        wanted = sdxl.config.block_out_channels
        mappers = nn.ModuleList(
            [
                Mapper(widths[2], wanted[2], upsampled=False),
                Mapper(widths[1], wanted[2], upsampled=False),
                Mapper(widths[0], wanted[1], upsampled=True),
            ]
        )
    for network in (sdxl, sd15, mappers):
        network.to(dtype).eval().requires_grad_(False)
        if device.type != "meta":
            network.to_empty(device=device)
            for parameter in network.parameters():
                parameter.uniform_(-0.02, 0.02)
    return Networks(sdxl, sd15, mappers, size)


@contextmanager
def _hooked(
    layers: Sequence[nn.Module], answer: Callable[[int, torch.Tensor], torch.Tensor | None]
) -> Iterator[None]:
    """Calls `answer` with a layer's place and its output, and takes its answer instead, if any."""
    handles = [
        layer.register_forward_hook(lambda _, __, found, index=index: answer(index, found))
        for index, layer in enumerate(layers)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
