"""FouRA: low rank in the frequency domain, folded exactly into a LoRA.

Borse et al., "FouRA: Fourier Low Rank Adaptation", NeurIPS 2024, arXiv 2406.08798. No tool writes
a public format: docs/foura.md defines the one that is read here, with its reference forward.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from scipy import fft

from .adapter import Origin, alpha_of
from .lora import LoraAdapter

# What foura_transform says (see docs/foura.md) -> what multiplies rows by the orthonormal matrix of
# the transform: the DFT's is symmetric, the DCT's is inverted by its transpose.
_TRANSFORMS = {0.0: fft.fft, 1.0: fft.idct}


@dataclass(frozen=True)
class FouraAdapter(LoraAdapter):
    """A folded FouRA. It is a LoRA in all but where it comes from.

    Attributes:
        note: what the fold did to the rank.
    """

    note: str = ""

    family = "FouRA"


def make_foura(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> FouraAdapter:
    """Builds an adapter from foura_up, foura_down, foura_transform, maybe foura_gate and alpha.

    Raises:
        ProLoRAError: one of the first three is missing, they do not fit each other, the transform
            is unknown, or the kernel is larger than 1 x 1.
    """
    missing = [role for role in ("up", "down", "transform") if f"foura_{role}" not in parts]
    if missing:
        origin.refuse(name, f"is a FouRA without its foura_{' and foura_'.join(missing)}")
    up, down = parts["foura_up"], parts["foura_down"]
    shapes = f"a FouRA up {list(up.shape)} and down {list(down.shape)}"
    if any(math.prod(factor.shape[2:]) != 1 for factor in (up, down)):
        origin.refuse(
            name, f"has {shapes}: FouRA is defined for linear layers and 1 x 1 convolutions alone"
        )
    rank = down.shape[0]
    if rank == 0 or up.ndim < 2 or down.ndim < 2 or up.shape[1] != rank:
        origin.refuse(name, f"has {shapes} that do not multiply")
    gate = parts.get("foura_gate", torch.ones(rank))
    if gate.shape != (rank,):
        origin.refuse(name, f"has a FouRA gate {list(gate.shape)} for rank {rank}")
    transform = parts["foura_transform"]
    said = origin.numbers(name, "foura_transform", transform)
    if len(said) != 1 or said[0] not in _TRANSFORMS:
        origin.refuse(
            name,
            f"has a foura_transform {transform.tolist()}, which is neither 0 (DFT) nor 1 (DCT)",
        )

    columns = up.flatten(start_dim=1).double() * gate.double()
    folded_up, folded_down = _real(
        _into_features(columns.T, said[0]).mH,
        _into_features(down.flatten(start_dim=1).double(), said[0]),
    )
    folded = folded_down.shape[0]
    alpha = alpha_of(name, parts, origin)
    return FouraAdapter(
        name=name,
        up=folded_up.float().reshape(-1, folded, *up.shape[2:]),
        down=folded_down.float().reshape(folded, *down.shape[1:]),
        alpha=None if alpha is None else alpha / rank * folded,
        note="" if folded == rank else f"a FouRA of rank {rank} by the DFT is a LoRA of {folded}",
    )


def _real(up: torch.Tensor, down: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The real part of up @ down as real factors: of twice the rank where they are complex."""
    if not up.is_complex():
        return up, down
    return torch.cat([up.real, -up.imag], dim=1), torch.cat([down.real, down.imag])


def _into_features(factor: torch.Tensor, transform: float) -> torch.Tensor:
    """The factor (r x d, float64) times the matrix of the transform: complex for the DFT."""
    return torch.from_numpy(_TRANSFORMS[transform](factor.numpy(), norm="ortho"))
