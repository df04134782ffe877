"""LoHa: the elementwise product of two low-rank matrices, whose rank goes up to r squared.

Hyeon-Woo et al., "FedPara", ICLR 2022, arXiv 2108.06098; in the layout of LyCORIS and PEFT.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from ..algebra.updates import LowRankUpdate, Update
from .adapter import Origin
from .dense import DenseAdapter
from .factors import note_of, pair_of, product, scale_of


@dataclass(frozen=True)
class LohaAdapter(DenseAdapter):
    """delta = scale * (w1_a @ w1_b) * (w2_a @ w2_b), both products m x n."""

    name: str
    w1: LowRankUpdate
    w2: LowRankUpdate
    scale: float
    note: str = ""

    family = "LoHa"

    @property
    def delta_shape(self) -> tuple[int, int]:
        return self.w1.up.shape[0], self.w1.down.shape[1]

    def update(self, weight: torch.Tensor) -> Update:
        """See Adapter. Its factors are the products of columns, and of rows, of every two ranks."""
        if self.w1.rank * self.w2.rank >= min(self.delta_shape):
            return super().update(weight)
        up = torch.einsum("mr,ms->mrs", self.w1.up.to(weight), self.w2.up.to(weight))
        down = torch.einsum("rn,sn->rsn", self.w1.down.to(weight), self.w2.down.to(weight))
        factors = LowRankUpdate(up.flatten(start_dim=1) * self.scale, down.flatten(end_dim=1))
        return factors.balanced()

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self.scale * product(self.w1, weight) * product(self.w2, weight)


def make_loha(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> LohaAdapter:
    """Builds an adapter from hada_w1_a, hada_w1_b, hada_w2_a, hada_w2_b, maybe the Tucker cores
    hada_t1, hada_t2, and alpha, which is divided by the rank of w1 (as ComfyUI and LyCORIS do).

    Raises:
        ProLoRAError: half of a pair or one of two cores is missing, or the sizes do not agree.
    """
    for core, other in (("hada_t1", "hada_t2"), ("hada_t2", "hada_t1")):
        if core in parts and other not in parts:
            origin.refuse(name, f"has a {core} but no {other}")
    w1 = pair_of(name, parts, origin, ("hada_w1_a", "hada_w1_b"), "hada_t1")
    w2 = pair_of(name, parts, origin, ("hada_w2_a", "hada_w2_b"), "hada_t2")
    scale = scale_of(name, parts, origin, w1.rank)
    adapter = LohaAdapter(name, w1, w2, scale, note_of(scale))
    m, n = adapter.delta_shape
    if (w2.up.shape[0], w2.down.shape[1]) != (m, n):
        other_shape = f"{w2.up.shape[0]} x {w2.down.shape[1]}"
        origin.refuse(name, f"has a hada_w1 of {m} x {n} but a hada_w2 of {other_shape}")
    return adapter
