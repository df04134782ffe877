"""What LoHa, LoKr and GLoRA are built from: pairs of factors, and the scale beside them."""

from collections.abc import Mapping

import torch

from ..algebra.updates import LowRankUpdate
from .adapter import Origin, alpha_of

_MOST_VALUES = 1 << 26  # of a product; a large layer has a tenth of it


def pair_of(
    name: str,
    parts: Mapping[str, torch.Tensor],
    origin: Origin,
    roles: tuple[str, str],
    core: str = "",
) -> LowRankUpdate:
    """A pair of factors as matrices: up m x r, down r x n; a convolution is flattened.

    Args:
        roles: of the up and of the down.
        core: the role of a Tucker core, r x r x kernel, that may be there. LyCORIS and PEFT keep
            the pair as r x out and r x in then. The core goes into down.

    Raises:
        ProLoRAError: half of the pair is missing, or the tensors do not multiply.
    """
    missing = [role for role in roles if role not in parts]
    if missing:
        origin.refuse(name, f"has no {' and no '.join(missing)}")
    up, down = (parts[role] for role in roles)
    if core in parts:
        up, down = _with_core(parts[core], up, down)
    rank = down.shape[0] if down.ndim >= 2 else 0
    if rank == 0 or up.ndim < 2 or up[0].numel() != rank:
        present = [role for role in (core, *roles) if role in parts]
        shapes = [f"{role} {list(parts[role].shape)}" for role in present]
        origin.refuse(name, f"has {', '.join(shapes)} that do not multiply")
    return LowRankUpdate(up.flatten(start_dim=1), down.flatten(start_dim=1))


def _with_core(
    core: torch.Tensor, up: torch.Tensor, down: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pair as out x r and r x in x kernel; nothing where the shapes do not fit."""
    fits = core.ndim > 2 and up.ndim == down.ndim == 2
    fits = fits and core.shape[0] == core.shape[1] == len(up) == len(down)
    if not fits or not is_small(core, down):
        return up[:0], down[:0]
    return up.T, fold(core, down)


def is_small(core: torch.Tensor, down: torch.Tensor) -> bool:
    """Whether a core and a down that multiply have a product that a layer may have.

    Its size is that of one times that of the other: a damaged file of 400 kB can ask for 10 GB.
    """
    return core.numel() // core.shape[1] * down[0].numel() <= _MOST_VALUES


def fold(core: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """A Tucker core r x r x kernel with a down r x in: r x in x kernel."""
    return torch.einsum("ij...,jn->in...", core.float(), down.flatten(start_dim=1).float())


def product(pair: LowRankUpdate, weight: torch.Tensor) -> torch.Tensor:
    """Both multiplied, m x n, in the weight's dtype and on its device."""
    return pair.up.to(weight) @ pair.down.to(weight)


def scale_of(name: str, parts: Mapping[str, torch.Tensor], origin: Origin, rank: float) -> float:
    """The alpha over the rank; 1 where the file has no alpha, as ComfyUI has it.

    Raises:
        ProLoRAError: the alpha is not one real number, or the rank is 0.
    """
    alpha = alpha_of(name, parts, origin)
    if alpha is not None and rank == 0:
        origin.refuse(name, "has an alpha, and 0 as the rank that it is divided by")
    return 1.0 if alpha is None else alpha / rank


def note_of(scale: float) -> str:
    """What to tell of the scale."""
    if scale != 0:
        return ""
    return "its alpha is 0, so it changes nothing in ComfyUI (LyCORIS reads that as a scale of 1)"
