"""LoRA and LoCon: a low-rank update of a linear or convolution weight."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from ..algebra.updates import LowRankUpdate, Update
from .adapter import Origin, Retargeted, alpha_of
from .factors import fold, is_small
from .writing import HELD

_FULL_RANK = " (nor has ai-toolkit's network of type fullrank, which ProLoRA does not read)"


@dataclass(frozen=True)
class LoraAdapter:
    """The update of one module: delta = (alpha / r) * up @ down.

    Attributes:
        name: the module's name as the file has it, without the suffix of the tensor.
        up: m x r; for a convolution m x r x 1 x 1.
        down: r x n; for a convolution r x in x kh x kw.
        alpha: None when the file has none; the scale is 1 then, as every loader has it.
        reshape: what the weight is padded to with zeros before the update is added; () for a weight
            that stays as it is. Control LoRAs give a first layer more inputs so.
        parts: what the file has of it, by role; empty for one that is made.
    """

    name: str
    up: torch.Tensor
    down: torch.Tensor
    alpha: float | None
    reshape: tuple[int, ...] = ()
    parts: Mapping[str, torch.Tensor] = field(
        default_factory=dict, kw_only=True, repr=False, compare=False
    )

    family = "LoRA"

    @property
    def note(self) -> str:
        if self.alpha == 0:
            return "its alpha is 0, so it changes nothing"
        shape = " x ".join(map(str, self.reshape))
        return f"the weight is padded with zeros to {shape}" if shape else ""

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def is_divisible(self) -> bool:
        return not self.reshape

    @property
    def delta_shape(self) -> tuple[int, int]:
        return self.up.shape[0], self.down[0].numel()

    @property
    def has_divisible_rows(self) -> bool:
        return not self.reshape

    def of_rows(self, start: int, length: int) -> "LoraAdapter":
        """See Adapter: its update is all that retarget looks at."""
        return self

    def kept_for(self, shape: tuple[int, ...]) -> "LoraAdapter":
        """See Adapter."""
        if self.down.shape[1:] == shape[1:]:
            return self
        up, down = _in_layout(self.up, self.down, shape[1:])
        return replace(self, up=up, down=down, parts={})

    def renamed(self, name: str) -> "LoraAdapter":
        """The same adapter for a module of another name."""
        return replace(self, name=name)

    def update(self, weight: torch.Tensor) -> LowRankUpdate:
        """The update as matrices, up m x r and down r x n, with the scale inside."""
        up = self.up.to(weight).flatten(start_dim=1)
        down = self.down.to(weight).flatten(start_dim=1)
        return LowRankUpdate(up * self.scale, down).balanced()

    def retarget(
        self, update: Update, rank: int, source: torch.Tensor, target: torch.Tensor
    ) -> Retargeted:
        """See Adapter. In the target's layout; its alpha equals its rank."""
        inputs = tuple(target.shape[1:])
        return moved_lora(self.name, update, rank or self.rank, inputs, self.reshape)

    def tensors(self) -> dict[str, torch.Tensor]:
        if self.parts and self.parts.keys() <= HELD:
            return dict(self.parts)
        alpha = float(self.rank) if self.alpha is None else self.alpha
        tensors = {"up": self.up, "down": self.down, "alpha": torch.tensor(alpha)}
        return tensors | ({"reshape_weight": torch.tensor(self.reshape)} if self.reshape else {})


def moved_lora(
    name: str,
    update: Update,
    rank: int,
    inputs: tuple[int, ...],
    reshape: tuple[int, ...] = (),
) -> Retargeted:
    """An update as a LoRA whose alpha equals its rank.

    Args:
        rank: see Update.truncate.
        inputs: the weight's shape without its first side: (n,), or (in, kh, kw).
        reshape: see LoraAdapter.
    """
    truncated = update.truncate(rank)
    adapter = replace(made_lora(name, truncated.factors, inputs), reshape=reshape)
    return Retargeted(adapter, truncated.factors.energy(), truncated.dropped)


def made_lora(name: str, factors: LowRankUpdate, inputs: tuple[int, ...]) -> LoraAdapter:
    """Factors as a LoRA whose alpha equals its rank, on the CPU.

    Args:
        inputs: see moved_lora.
    """
    up, down = _in_layout(factors.up.cpu(), factors.down.cpu(), inputs)
    return LoraAdapter(name, up, down, float(factors.rank))


def _in_layout(
    up: torch.Tensor, down: torch.Tensor, inputs: tuple[int, ...]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both factors for a weight of these inputs: (n,), or (in, kh, kw)."""
    rank, ones = down.shape[0], (1,) * len(inputs[1:])
    return up.reshape(-1, rank, *ones), down.reshape(rank, *inputs)


def make_lora(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> LoraAdapter:
    """Builds an adapter from the tensors of one module: up, down, maybe a Tucker core (mid), alpha.

    Raises:
        ProLoRAError: half of the pair is missing, or the ranks differ.
    """
    for role, other, hint in (("up", "down", _FULL_RANK), ("down", "up", "")):
        if role not in parts:
            present = other if other in parts else "mid"
            origin.refuse(name, f"has a LoRA {present} but no LoRA {role}{hint}")
    up, down = parts["up"], parts["down"]
    if "mid" in parts:
        down = _with_core(name, parts["mid"], down, origin)
    rank = down.shape[0] if down.ndim >= 2 else 0
    if rank == 0 or up.ndim < 2 or up[0].numel() != rank:
        origin.refuse(
            name,
            f"has a LoRA up {list(up.shape)} and down {list(down.shape)} that do not multiply",
        )
    adapter = LoraAdapter(name, up, down, alpha_of(name, parts, origin))
    return replace(adapter, reshape=_reshape(adapter, parts, origin))


def _reshape(
    adapter: LoraAdapter, parts: Mapping[str, torch.Tensor], origin: Origin
) -> tuple[int, ...]:
    if "reshape_weight" not in parts:
        return ()
    sides = origin.numbers(adapter.name, "reshape_weight", parts["reshape_weight"])
    shape = tuple(int(side) for side in sides)
    m, n = adapter.delta_shape
    if len(shape) < 2 or (shape[0], math.prod(shape[1:])) != (m, n):
        origin.refuse(
            adapter.name, f"has a reshape_weight {list(shape)} but an update of {m} x {n}"
        )
    return shape


def _with_core(name: str, mid: torch.Tensor, down: torch.Tensor, origin: Origin) -> torch.Tensor:
    """Folds the Tucker core r x r x kh x kw of a LoCon into its down: r x in x kh x kw."""
    fits = mid.ndim > 2 and down.ndim > 1 and mid.shape[1] == down.shape[0]
    if not fits or not is_small(mid, down):
        origin.refuse(
            name,
            f"has a LoRA mid {list(mid.shape)} and down {list(down.shape)} that do not multiply",
        )
    return fold(mid, down)
