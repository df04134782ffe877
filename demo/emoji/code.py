"""What stands in for a VAE: a fixed linear code of 4 x 4 pixel patches, 48 values to 16 channels.

The basis is a principal component analysis of the training pictures. Latents are in the space in
which ComfyUI hands them from node to node (the one a VAE would give); the SD3 latent format moves
them to about unit size before the model sees them.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import conv2d, conv_transpose2d

PATCH = 4
CODE_FILE = Path(__file__).resolve().parent.parent / "models" / "emoji_code.safetensors"


@dataclass(frozen=True)
class PatchCode:
    """`basis` [16, 3, 4, 4] has orthonormal rows, `scale` [16] their sizes, `mean` [3] a colour."""

    basis: torch.Tensor
    scale: torch.Tensor
    mean: torch.Tensor

    @classmethod
    def load(cls, path: Path = CODE_FILE) -> "PatchCode":
        if not path.is_file():
            remedy = "keep the folders emoji and models of the demo side by side"
            raise FileNotFoundError(f"{path} is missing: {remedy}")
        return cls(**load_file(path))

    def save(self, path: Path = CODE_FILE) -> None:
        save_file({"basis": self.basis, "scale": self.scale, "mean": self.mean}, path)

    def encode(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures [N, 3, H, W] in 0..1 to latents [N, 16, H/4, W/4]."""
        coefficients = conv2d(pictures - self.mean.view(3, 1, 1), self.basis, stride=PATCH)
        return coefficients / self.scale.view(-1, 1, 1)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Latents [N, 16, h, w] to pictures [N, 3, 4h, 4w], clamped to 0..1."""
        coefficients = latents * self.scale.view(-1, 1, 1)
        pictures = conv_transpose2d(coefficients, self.basis, bias=self.mean, stride=PATCH)
        return pictures.clamp(0, 1)
