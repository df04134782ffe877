"""Differences without factors: of whole weights, norms and biases; and weights that are set.

A weight's difference is an m x n update, projected like any other. A vector has no subspaces, and
neither has a tensor that takes a weight's place: those are carried over as they are.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from ..algebra.updates import DenseUpdate, Update
from .adapter import Origin, Retargeted
from .dense import DenseAdapter
from .factors import scale_of
from .suffixes import FAMILY_OF, MAGNITUDES

# Role -> what it is. ComfyUI's loader adds `diff` and `w_norm` to a module's weight, `diff_b` and
# `b_norm` to its bias, and puts `set_weight` in place of the weight (since 2024).
_KINDS = {
    "diff": "vector difference",
    "w_norm": "norm difference",
    "set_weight": "set weight",
    "diff_b": "bias difference",
    "b_norm": "bias difference",
}
_OF_BIAS = ("diff_b", "b_norm", "up_bias")
_OF_WEIGHT = ("diff", "w_norm", "set_weight")


@dataclass(frozen=True)
class FullDifference(DenseAdapter):
    """A difference of a whole weight, as LyCORIS' `full` algorithm and model extraction write it.

    Attributes:
        diff: of the weight's shape. No alpha scales it.
    """

    name: str
    diff: torch.Tensor

    family = "full difference"
    is_divisible = False  # without a rank it is a whole weight's or nothing

    @property
    def delta_shape(self) -> tuple[int, int]:
        return self.diff.shape[0], self.diff[0].numel()

    def delta(self, weight: torch.Tensor) -> torch.Tensor:
        return self.diff

    def kept_for(self, shape: tuple[int, ...]) -> "FullDifference":
        """See Adapter."""
        return self if self.diff.shape == shape else replace(self, diff=self.diff.reshape(shape))

    def retarget(
        self, update: Update, rank: int, source: torch.Tensor, target: torch.Tensor
    ) -> Retargeted:
        """See Adapter. Without a rank it stays a full difference, and nothing is dropped."""
        if rank or not isinstance(update, DenseUpdate):
            return super().retarget(update, rank, source, target)
        moved = FullDifference(self.name, update.delta.reshape(target.shape).cpu())
        return Retargeted(moved, update.energy(), dropped=0.0)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"diff": self.diff}


def make_full_difference(
    name: str, parts: Mapping[str, torch.Tensor], origin: Origin
) -> FullDifference:
    """Builds an adapter from the diff of a weight.

    Raises:
        ProLoRAError: a DoRA magnitude lies beside it, which no loader can read.
    """
    diff = parts["diff"]
    if any(role in parts for role in MAGNITUDES.values()):
        origin.refuse(name, "has a DoRA magnitude over a full difference, which nothing reads")
    return FullDifference(name, diff)


@dataclass(frozen=True)
class VectorPatch:
    """A tensor that is added to a norm or a bias, or takes a weight's place.

    Attributes:
        name: the module's.
        role: a key of _KINDS.
        tensor: its scale inside.
    """

    name: str
    role: str
    tensor: torch.Tensor

    @property
    def kind(self) -> str:
        """As "bias difference", for people."""
        return _KINDS[self.role]

    @property
    def of_bias(self) -> bool:
        """Whether it is the module's bias that it changes."""
        return self.role in _OF_BIAS

    def renamed(self, name: str) -> "VectorPatch":
        """The same for a module of another name."""
        return replace(self, name=name)

    def tensors(self) -> dict[str, torch.Tensor]:
        """By role, what a file of it holds; see Adapter."""
        return {self.role: self.tensor}


def split_vectors(
    parts: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A module's tensors without subspaces, and those of its family."""
    vectors = {
        role: tensor
        for role, tensor in parts.items()
        if role in (*_OF_WEIGHT, *_OF_BIAS) and not (role == "diff" and tensor.ndim >= 2)
    }
    return vectors, {role: tensor for role, tensor in parts.items() if role not in vectors}


def make_vector_patches(
    name: str,
    vectors: Mapping[str, torch.Tensor],
    parts: Mapping[str, torch.Tensor],
    origin: Origin,
) -> list[VectorPatch]:
    """The differences of one module.

    PEFT's bias of a LoRA's up (lora_bias=True) becomes a bias difference with the LoRA's scale
    inside: ComfyUI does not read it under its own name. Nor does it read a b_norm without w_norm.

    Args:
        vectors, parts: see split_vectors.

    Raises:
        ProLoRAError: two tensors change the same weight or the same bias, or the bias has no LoRA.
    """
    families = {FAMILY_OF[role] for role in parts if role in FAMILY_OF}
    of_weight = [*sorted(families), *(role for role in _OF_WEIGHT if role in vectors)]
    of_bias = [role for role in _OF_BIAS if role in vectors]
    for side, changes in (("weight", of_weight), ("bias", of_bias)):
        if len(changes) > 1:
            origin.refuse(name, f"has two changes of one {side}: {' and '.join(changes)}")
    tensors = dict(vectors)
    if "up_bias" in tensors:
        down = parts.get("down")
        if down is None or down.ndim == 0:
            origin.refuse(name, "has the bias of a LoRA up but no LoRA down")
        scale = scale_of(name, parts, origin, len(down))
        tensors["diff_b"] = tensors.pop("up_bias").float() * scale
    if "b_norm" in tensors and "w_norm" not in tensors:
        tensors["diff_b"] = tensors.pop("b_norm")
    return [VectorPatch(name, role, tensor) for role, tensor in tensors.items()]
