"""The U-Net of adaptive-terrain-diffusion as a torch module, which runs at any size of map.

The package has it as a graph for maps of 128 x 128. What the graph computes is written here again;
the names of the layers are the graph's own. `models.py` fills it with the weights of a version.
"""

import math

import torch
from torch import nn

WIDTHS = (32, 32, 64, 96, 128)  # channels, from the full size to a sixteenth of it
BLOCKS = 4  # of a size, on the way down; one more on the way up
ATTENDS_FROM = 2  # the first of the sizes with attention
HEAD = 32  # channels of a head, and groups of a norm
EMBEDDED = 128
SIGMA_MIN, SIGMA_MAX, SIGMA_DATA = 0.002, 80.0, 0.5


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(HEAD, width, eps=1e-5)


class Residual(nn.Module):
    """Two convolutions, told the noise level and the difficulty between them; may change the size.

    Args:
        scale: 0.5 halves the map, 2 doubles it.
    """

    def __init__(self, width: int, out: int, scale: float = 1) -> None:
        super().__init__()
        self.scale = scale
        self.in_layers = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, out, 3, padding=1))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(EMBEDDED, 2 * out))
        self.out_layers = nn.Sequential(
            _norm(out), nn.SiLU(), nn.Identity(), nn.Conv2d(out, out, 3, padding=1)
        )
        self.skip_connection = nn.Identity() if width == out else nn.Conv2d(width, out, 1)

    def forward(self, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        norm, silu, convolution = self.in_layers
        h = convolution(self._resized(silu(norm(x))))
        factor, shift = self.emb_layers(embedded)[:, :, None, None].chunk(2, dim=1)
        norm, *rest = self.out_layers
        h = norm(h) * (1 + factor) + shift
        for layer in rest:
            h = layer(h)
        return self.skip_connection(self._resized(x)) + h

    def _resized(self, x: torch.Tensor) -> torch.Tensor:
        if self.scale == 1:
            return x
        return (
            nn.functional.avg_pool2d(x, 2)
            if self.scale < 1
            else nn.functional.interpolate(x, scale_factor=2)
        )


class Attention(nn.Module):
    """Every place of the map looks at every other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        batch, width, height, length = x.shape
        q, k, v = (
            part.reshape(batch, width // HEAD, HEAD, -1).transpose(2, 3)
            for part in self.qkv(self.norm(x)).chunk(3, dim=1)
        )
        seen = nn.functional.scaled_dot_product_attention(q, k, v).transpose(2, 3)
        return x + self.proj_out(seen.reshape(batch, width, height, length))


class Chain(nn.Sequential):
    """Layers one after the other, each told what is embedded."""

    def forward(self, x: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        for layer in self:
            x = layer(x) if isinstance(layer, nn.Conv2d) else layer(x, embedded)
        return x


class UNet(nn.Module):
    """Predicts the clean map of a noised one (x0), in one step.

    It takes maps [B, 1, H, W] with sides that 16 divides, sigmas [B] and difficulties [B] in
    [0, 1]. Heights are in the model's space, [-1, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.time_embed = _two_layers(HEAD)
        self.label_emb = _two_layers(1)
        skips = [WIDTHS[0]]
        self.input_blocks = nn.ModuleList([Chain(nn.Conv2d(1, WIDTHS[0], 3, padding=1))])
        for size, out in enumerate(WIDTHS):
            for _ in range(BLOCKS):
                self.input_blocks.append(_block(skips[-1], out, size))
                skips.append(out)
            if size + 1 < len(WIDTHS):
                self.input_blocks.append(Chain(Residual(out, out, 0.5)))
                skips.append(out)
        width = WIDTHS[-1]
        self.middle_block = Chain(Residual(width, width), Attention(width), Residual(width, width))
        self.output_blocks = nn.ModuleList()
        for size, out in reversed(list(enumerate(WIDTHS))):
            for place in range(BLOCKS + 1):
                block = _block(width + skips.pop(), out, size)
                if size and place == BLOCKS:
                    block.append(Residual(out, out, 2))
                self.output_blocks.append(block)
                width = out
        self.out = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(
        self, noised: torch.Tensor, sigmas: torch.Tensor, difficulties: torch.Tensor
    ) -> torch.Tensor:
        sigma, all_of = sigmas.view(-1, 1, 1, 1), (sigmas**2 + SIGMA_DATA**2).view(-1, 1, 1, 1)
        answer = self.answer(noised * all_of.rsqrt(), sigmas, difficulties)
        kept = SIGMA_DATA**2 / ((sigma - SIGMA_MIN) ** 2 + SIGMA_DATA**2)
        return (kept * noised + output_scale(sigma) * answer).clamp(-1, 1)

    def answer(
        self, x: torch.Tensor, sigmas: torch.Tensor, difficulties: torch.Tensor
    ) -> torch.Tensor:
        """What the network itself puts out for a map of deviation 1."""
        embedded = self.time_embed(_waves(250 * sigmas.clamp_min(1e-44).log()))
        embedded = embedded + self.label_emb(difficulties[:, None])
        skips = []
        for block in self.input_blocks:
            x = block(x, embedded)
            skips.append(x)
        x = self.middle_block(x, embedded)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), embedded)
        return self.out(x)


def output_scale(sigmas: torch.Tensor) -> torch.Tensor:
    """How far the prediction moves with what the network puts out."""
    return SIGMA_DATA * (sigmas - SIGMA_MIN) / (sigmas**2 + SIGMA_DATA**2).sqrt()


def _block(width: int, out: int, size: int) -> Chain:
    attention = [Attention(out)] if size >= ATTENDS_FROM else []
    return Chain(Residual(width, out), *attention)


def _two_layers(width: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, EMBEDDED), nn.SiLU(), nn.Linear(EMBEDDED, EMBEDDED))


def _waves(times: torch.Tensor) -> torch.Tensor:
    """Cosines and sines [B, HEAD] of falling frequency."""
    half = HEAD // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half) / half)
    angles = times[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
