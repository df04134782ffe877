"""GLoRA: a low-rank update that also multiplies the weight.

Chavan et al., "One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning",
arXiv 2306.07967; in the layouts of LyCORIS.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch

from ..algebra.updates import DenseUpdate, LowRankUpdate, Update
from .adapter import Origin
from .dense import DenseAdapter
from .factors import fold, is_small, note_of, scale_of

_ROLES = ("glora_a1", "glora_a2", "glora_b1", "glora_b2")


@dataclass(frozen=True)
class GloraAdapter(DenseAdapter):
    """delta = scale * (W a + b), a over the input channels of W.

    Attributes:
        a: in x in.
        b: m x n.
        scale: alpha / r. LyCORIS trains with alpha / sqrt(r) where `rs_lora` is on, but saves the
            same alpha. The file does not tell, and every reader, LyCORIS's own included, takes
            alpha / r.
    """

    name: str
    a: LowRankUpdate
    b: LowRankUpdate
    scale: float
    note: str = ""

    family = "GLoRA"

    @property
    def rank(self) -> int:
        """Of b, and of W a for each place of the kernel; 0 where the weight has no more itself."""
        rank = self.b.rank + self.a.rank * (self.b.down.shape[1] // self.a.down.shape[1])
        return rank if rank < min(self.delta_shape) else 0

    @property
    def delta_shape(self) -> tuple[int, int]:
        return self.b.up.shape[0], self.b.down.shape[1]

    def update(self, weight: torch.Tensor) -> Update:
        """See Adapter. W a has the factors W a.up and a.down, apart for each place of a kernel."""
        factors = self._factors(weight)
        return factors.balanced() if self.rank else DenseUpdate(factors.delta)

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self._factors(weight).delta

    def _factors(self, weight: torch.Tensor) -> LowRankUpdate:
        W = weight.reshape(weight.shape[0], self.a.up.shape[0], -1)
        places = torch.eye(W.shape[2]).to(weight)
        left = torch.einsum("oik,ir->ork", W, self.a.up.to(weight)).flatten(start_dim=1)
        right = torch.einsum("rj,kl->rkjl", self.a.down.to(weight), places)
        up = torch.cat([left, self.b.up.to(weight)], dim=1)
        down = torch.cat([right.reshape(left.shape[1], -1), self.b.down.to(weight)])
        return LowRankUpdate(up * self.scale, down)


def make_glora(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> GloraAdapter:
    """Builds an adapter from a1, a2, b1, b2, maybe a Tucker core bm, and alpha.

    There are two layouts and nothing but shapes to tell them apart, by ComfyUI's rule:

        now   a = a1 a2, b = b1 b2    a1 in x r, a2 r x in, b1 out x r, b2 r x in (x kernel)
        old   a = a2 a1, b = b2 b1    a1 r x in, a2 in x r, b1 r x in, b2 out x r

    Both fit a square weight. Then the larger side is the weight's and the smaller one the rank (a
    rank above the weight's size ends as a shape that does not fit the weight). Where both are the
    same nothing tells the layouts apart, and it counts as old.

    Raises:
        ProLoRAError: a tensor is missing, or the shapes fit neither layout.
    """
    missing = [role for role in _ROLES if role not in parts]
    if missing:
        origin.refuse(name, f"has GLoRA tensors but no {_words(missing)}")
    a1, a2, b1, b2 = (parts[role] for role in _ROLES)
    if min(tensor.ndim for tensor in (a1, a2, b1, b2)) < 2:
        _refuse_shapes(name, parts, origin)
    now = b2.shape[0] == b1.shape[1] == a1.shape[1] == a2.shape[0]
    old = b2.shape[1] == b1.shape[0] == a1.shape[0] == a2.shape[1]
    if old and (not now or a2.shape[0] >= a2.shape[1]):
        a1, a2, b1, b2 = a2, a1, b2, b1
    if "glora_bm" in parts:
        core = parts["glora_bm"]
        fits = core.ndim > 2 and core.shape[0] == core.shape[1] == b2.shape[0]
        if not fits or not is_small(core, b2):
            _refuse_shapes(name, parts, origin)
        b2 = fold(core, b2)
    a = LowRankUpdate(a1.flatten(start_dim=1), a2.flatten(start_dim=1))
    b = LowRankUpdate(b1.flatten(start_dim=1), b2.flatten(start_dim=1))
    rank, channels = b.rank, a.up.shape[0]
    ranks = {rank, a.rank, a.down.shape[0], b.down.shape[0]}
    if rank == 0 or len(ranks) > 1 or not channels == a.down.shape[1] == b2.shape[1]:
        _refuse_shapes(name, parts, origin)
    scale = scale_of(name, parts, origin, rank)
    return GloraAdapter(name, a, b, scale, note_of(scale))


def _words(roles: list[str]) -> str:
    return " and no ".join(role.removeprefix("glora_") for role in roles)


def _refuse_shapes(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> NoReturn:
    present = [role for role in (*_ROLES, "glora_bm") if role in parts]
    shapes = [f"{_words([role])} {list(parts[role].shape)}" for role in present]
    origin.refuse(name, f"has a GLoRA {', '.join(shapes)} that do not multiply")
