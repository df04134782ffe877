"""LoKr: the Kronecker product of two small matrices, each of them whole or a low-rank product.

Yeh et al., "Navigating Text-To-Image Customization: From LyCORIS Fine-Tuning to Model Evaluation",
ICLR 2024, arXiv 2309.14859; in the layout of LyCORIS and PEFT.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..algebra.updates import LowRankUpdate
from ..errors import ProLoRAError
from .adapter import Origin
from .dense import DenseAdapter
from .factors import note_of, pair_of, product, scale_of
from .peft_config import rank_in

_Matrix = torch.Tensor | LowRankUpdate


@dataclass(frozen=True)
class LokrAdapter(DenseAdapter):
    """delta = scale * kron(w1, w2).

    Attributes:
        w1: a x c.
        w2: b x d; for a convolution b x (d kh kw): the kernel is innermost on either side of the
            product, so that it needs no axes of its own.
    """

    name: str
    w1: _Matrix
    w2: _Matrix
    scale: float
    note: str = ""

    family = "LoKr"

    @property
    def delta_shape(self) -> tuple[int, int]:
        (a, c), (b, d) = _shape(self.w1), _shape(self.w2)
        return a * b, c * d

    def kept_for(self, shape: tuple[int, ...]) -> "LokrAdapter | None":
        """See Adapter. Two whole factors have a scale for PEFT alone, by its configuration."""
        whole = isinstance(self.w1, torch.Tensor) and isinstance(self.w2, torch.Tensor)
        if whole and self.scale != 1:
            return None
        kept = super().kept_for(shape)
        assert kept is None or isinstance(kept, LokrAdapter)
        return kept

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self.scale * torch.kron(_formed(self.w1, weight), _formed(self.w2, weight))


def make_lokr(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> LokrAdapter:
    """Builds an adapter from lokr_w1 or lokr_w1_a and lokr_w1_b, the same for w2 with maybe a
    Tucker core lokr_t2, and alpha.

    Raises:
        ProLoRAError: a side is missing, halved or there twice, the sizes do not multiply, or there
            is a lokr_t1, which LyCORIS names but neither it nor another tool writes.
    """
    if "lokr_t1" in parts:
        raise ProLoRAError(
            f"{origin.file}: the module {name} has a lokr_t1, a Tucker core for the first factor, "
            "which no known tool writes and ComfyUI does not read. Export the file again without "
            "Tucker decomposition."
        )
    w1, w2 = (_side(name, parts, origin, side) for side in ("lokr_w1", "lokr_w2"))
    if isinstance(w1, torch.Tensor) and isinstance(w2, torch.Tensor):
        return _with_both_whole(name, w1, w2, parts, origin)
    factored = w2 if isinstance(w2, LowRankUpdate) else w1  # w2's rank wins, as in ComfyUI
    assert isinstance(factored, LowRankUpdate)
    rank: float = factored.rank
    if "lokr_dim" in parts and factored is w1:  # the trainer may have cut the rank of w1
        rank = origin.number(name, "lokr_dim", parts["lokr_dim"]) or rank
    scale = scale_of(name, parts, origin, rank)
    return LokrAdapter(name, w1, w2, scale, note_of(scale))


def _side(name: str, parts: Mapping[str, torch.Tensor], origin: Origin, side: str) -> _Matrix:
    roles = (f"{side}_a", f"{side}_b")
    core = "lokr_t2" if side == "lokr_w2" else ""
    factors = [role for role in (*roles, core) if role in parts]
    if side not in parts:
        if not factors:
            origin.refuse(name, f"has no {side}, neither whole nor as a pair of factors")
        return pair_of(name, parts, origin, roles, core)
    if factors:
        origin.refuse(name, f"has a whole {side} and also a {factors[0]}")
    whole = parts[side]
    if whole.ndim < 2 or whole.numel() == 0 or (side == "lokr_w1" and whole.ndim > 2):
        origin.refuse(name, f"has a {side} {list(whole.shape)} that is no matrix")
    return whole.flatten(start_dim=1)


def _with_both_whole(
    name: str,
    w1: torch.Tensor,
    w2: torch.Tensor,
    parts: Mapping[str, torch.Tensor],
    origin: Origin,
) -> LokrAdapter:
    """There is no rank to divide alpha by. LyCORIS, OneTrainer, ai-toolkit and musubi-tuner train
    such a module with scale 1 and write its rank as alpha (ai-toolkit 9999999999, which is infinite
    in fp16); ComfyUI (its issue 15114) ignores the alpha; PEFT has the rank in its config.

    A trainer makes w2 whole where the rank is at least half of its longer side. So an alpha of
    less is not that rank, and may have been meant to scale: that is told.
    """
    if "alpha" in parts and origin.config:
        scale = scale_of(name, parts, origin, rank_in(origin.config, name, origin))
        return LokrAdapter(name, w1, w2, scale, note_of(scale))
    note = ""
    alpha = parts.get("alpha", torch.tensor(math.inf)).real.flatten()[:1]
    if (2 * alpha < max(parts["lokr_w2"].shape[:2])).any():
        note = (
            f"its alpha of {float(alpha):g} is not applied: both factors are whole, so the file "
            "has no rank to divide it by (ComfyUI reads it so)"
        )
    return LokrAdapter(name, w1, w2, 1.0, note)


def _shape(matrix: _Matrix) -> tuple[int, int]:
    if isinstance(matrix, LowRankUpdate):
        return matrix.up.shape[0], matrix.down.shape[1]
    return matrix.shape[0], matrix.shape[1]


def _formed(matrix: _Matrix, weight: torch.Tensor) -> torch.Tensor:
    return product(matrix, weight) if isinstance(matrix, LowRankUpdate) else matrix.to(weight)
