"""FouRA: low rank in the frequency domain, folded exactly into a LoRA.

Borse et al., "FouRA: Fourier Low Rank Adaptation", NeurIPS 2024, arXiv 2406.08798. No tool writes
a public format: docs/foura.md defines the one that is read here, with its reference forward.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from .adapter import Origin, alpha_of
from .lora import LoraAdapter

# (factor r x d in the frequency domain) -> its rows in the feature domain, complex for the DFT
Rows = Callable[[torch.Tensor], torch.Tensor]


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
    rows = _TRANSFORMS.get(said[0]) if len(said) == 1 else None
    if rows is None:
        origin.refuse(
            name,
            f"has a foura_transform {transform.tolist()}, which is neither 0 (DFT) nor 1 (DCT)",
        )

    columns = up.flatten(start_dim=1).double() * gate.double()
    folded_up, folded_down = _real(rows(columns.T).mH, rows(down.flatten(start_dim=1).double()))
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


def _dft_rows(factor: torch.Tensor) -> torch.Tensor:
    """The factor times the unitary DFT matrix, which is symmetric."""
    rows: torch.Tensor = torch.fft.fft(factor, norm="ortho")
    return rows


def _dct_rows(factor: torch.Tensor) -> torch.Tensor:
    """The factor times the orthonormal DCT-II matrix.

    x_j = sum_k c_k X_k cos(pi (2 j + 1) k / 2 d) is the real part of the inverse DFT of length 2 d
    of c_k X_k exp(i pi k / 2 d).
    """
    d = factor.shape[1]
    k = torch.arange(d, dtype=torch.float64)
    c = torch.full_like(k, math.sqrt(2 / d))
    c[0] = math.sqrt(1 / d)
    shifted = torch.polar(c, math.pi * k / (2 * d)) * factor
    rows: torch.Tensor = torch.fft.ifft(shifted, n=2 * d, norm="forward").real[:, :d]
    return rows


# What foura_transform says; see docs/foura.md.
_TRANSFORMS: dict[float, Rows] = {0.0: _dft_rows, 1.0: _dct_rows}
