"""DoRA: any update as a direction, and a learned magnitude for every row or column of the weight.

Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", ICML 2024, arXiv 2402.09353.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from ..algebra.updates import Update
from ..errors import ProLoRAError
from .adapter import Adapter, Origin, Retargeted
from .suffixes import MAGNITUDES

# Magnitudes that multiply the norms of a weight instead of taking their place.
_MULTIPLIERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "dora_multiplier": lambda stored: stored.float(),
    "dora_log_multiplier": lambda stored: stored.float().exp(),
}
_ROLES = tuple(dict.fromkeys(MAGNITUDES.values()))
_SIDES = ("outputs", "inputs")  # what the axes of a weight are
_IN_COMFYUI = (
    "ComfyUI divides a DoRA by other norms than its trainer does, so it looks a little different "
    "there, moved or not"
)


@dataclass(frozen=True)
class DoraAdapter:
    """A magnitude over another adapter: the weight becomes m * (W + delta) / ||W + delta||.

    The norm is taken over all axes of the weight but one. That is the formula of PEFT, LyCORIS,
    OneTrainer, ai-toolkit and AkaneTendo25's musubi-tuner. Over an OFT, whose rotation keeps the
    norms, the last has m / ||W|| * W R, as drafts of OneTrainer's have. ComfyUI differs: on the
    output axis, since 2025, it divides by the norm of W without delta; before, it took the norm on
    the input axis whatever the file. Both parts are moved apart, so the result is a DoRA again, and
    which formula it goes into stays the reader's choice: m keeps its ratio to ||W||, which suits
    either.

    Attributes:
        direction: the adapter whose delta is added to W, of any family.
        magnitude: m, in the shape that divides by the norms of a weight: out x 1 (x 1 x 1) for
            axis 0, 1 x in (x 1 x 1) for axis 1.
        axis: of the weight, 0 for a magnitude an output, 1 for one an input.
        norms: of the weight that the magnitude was trained on, in its shape, where the file has
            them; None for those of the weight that it is used on.
    """

    direction: Adapter
    magnitude: torch.Tensor
    axis: int
    norms: torch.Tensor | None = None

    @property
    def name(self) -> str:
        return self.direction.name

    @property
    def family(self) -> str:
        """The direction's family is named unless it is the usual one."""
        family = self.direction.family
        return "DoRA" if family == "LoRA" else f"DoRA over {family}"

    @property
    def rank(self) -> int:
        return self.direction.rank

    @property
    def note(self) -> str:
        return "; ".join(filter(None, (self.direction.note, "" if self.axis else _IN_COMFYUI)))

    @property
    def reshape(self) -> tuple[int, ...]:
        return self.direction.reshape

    @property
    def is_divisible(self) -> bool:
        """A magnitude is of one weight and of its width."""
        return False

    @property
    def delta_shape(self) -> tuple[int | None, int | None]:
        return self.direction.delta_shape

    @property
    def has_divisible_rows(self) -> bool:
        """The norm of a row is the row's own; that of a column is of all rows."""
        return self.axis == 0 and self.direction.has_divisible_rows

    def of_rows(self, start: int, length: int) -> "DoraAdapter":
        """See Adapter."""
        direction = self.direction.of_rows(start, length)
        rows = slice(start, start + length)
        norms = self.norms if self.norms is None else self.norms.flatten()[rows]
        return replace(self, direction=direction, magnitude=self.magnitude[rows], norms=norms)

    def kept_for(self, shape: tuple[int, ...]) -> "DoraAdapter | None":
        """See Adapter."""
        direction = self.direction.kept_for(shape)
        if direction is None or self.norms is not None:  # a magnitude for other norms
            return None
        return replace(self, direction=direction, magnitude=self._laid_out(self.magnitude, shape))

    def renamed(self, name: str) -> "DoraAdapter":
        """See Adapter."""
        return replace(self, direction=self.direction.renamed(name))

    def update(self, weight: torch.Tensor) -> Update:
        """The direction's delta: what is moved, not the whole change of the weight."""
        return self.direction.update(weight)

    def retarget(
        self, update: Update, rank: int, source: torch.Tensor, target: torch.Tensor
    ) -> Retargeted:
        """See Adapter. The direction moves by its own rule; m_t = m_s * ||W_t|| / ||W_s||.

        Where ||W_s|| is 0 there is no ratio to keep, and m stays as it is.

        Raises:
            ProLoRAError: the magnitude has not as many values as the weights have outputs or
                inputs.
        """
        moved = self.direction.retarget(update, rank, source, target)
        adapter = replace(self.with_norms_of(source, target), direction=moved.adapter)
        return Retargeted(adapter, moved.energy, moved.dropped)

    def with_norms_of(self, source: torch.Tensor, target: torch.Tensor) -> "DoraAdapter":
        """The same direction with the magnitude for another weight; see retarget."""
        before, after = self._norms(source), self._norms(target)
        if self.norms is not None:
            before = self.norms.to(before).flatten()
        ratio = torch.where(before == 0, 1.0, after / before)
        magnitude = (self.magnitude.to(ratio).flatten() * ratio).to(target.dtype).cpu()
        laid_out = self._laid_out(magnitude, tuple(target.shape))
        return replace(self, magnitude=laid_out, norms=None)

    def tensors(self) -> dict[str, torch.Tensor]:
        return {**self.direction.tensors(), "dora_scale": self.magnitude}

    def _norms(self, weight: torch.Tensor) -> torch.Tensor:
        """||W|| along the axis, in float64: as many as the magnitude has values."""
        length, wanted = self.magnitude.numel(), weight.shape[self.axis]
        if length != wanted:
            raise ProLoRAError(
                f"The module {self.name} has a DoRA magnitude of {length} values, but its weight "
                f"has {wanted} {_SIDES[self.axis]}. The LoRA does not fit this model: choose the "
                "checkpoint that it was trained on."
            )
        others = [axis for axis in range(weight.ndim) if axis != self.axis]
        norms: torch.Tensor = torch.linalg.vector_norm(weight, dim=others, dtype=torch.float64)
        return norms

    def _laid_out(self, magnitude: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
        """The magnitude in the shape that divides by the norms of a weight."""
        sides = [1] * len(shape)
        sides[self.axis] = -1
        return magnitude.reshape(sides)


def with_magnitude(
    direction: Adapter, parts: Mapping[str, torch.Tensor], origin: Origin
) -> Adapter:
    """The adapter itself, or a DoRA where the module's tensors hold a magnitude.

    What tells the axis, also for a square weight: PEFT's lora_magnitude_vector, out or
    1 x out x 1 x 1, and ai-toolkit's magnitude, out, are always an output's. The dora_scale of
    LyCORIS, kohya's forks and OneTrainer tells by its shape: out x 1 (x 1 x 1), or
    1 x in (x 1 x 1) (LyCORIS' wd_on_output=False); one without a second axis is an output's.
    Zero and negative magnitudes are legal: they are trained values, which no reader bounds.

    Raises:
        ProLoRAError: there are two magnitudes, the shape fits neither side of the update nor the
            norms beside it, or a multiplier lies beside anything but an OFT.
    """
    present = [role for role in _ROLES if role in parts]
    if not present:
        return direction
    if len(present) > 1:
        origin.refuse(direction.name, f"has two DoRA magnitudes, {' and '.join(present)}")
    (role,) = present
    magnitude, norms = parts[role], parts.get("initial_norm")
    if role in _MULTIPLIERS:
        if direction.family != "OFT":
            origin.refuse(direction.name, f"has a {role} beside a {direction.family}, not an OFT")
        magnitude = _MULTIPLIERS[role](magnitude)
        norms = torch.ones_like(magnitude)
    length, shape = magnitude.numel(), list(magnitude.shape)
    if length == 0 or length != max(shape, default=1):
        origin.refuse(direction.name, f"has a DoRA {role} {shape} that is not one row or column")
    axis = 1 if role == "dora_scale" and shape[1:] and length == shape[1] != shape[0] else 0
    size = direction.delta_shape[axis]
    # A convolution's n is in * kh * kw; what of it is `in`, the weight will tell.
    if size is not None and (size % length if axis else size != length):
        origin.refuse(
            direction.name,
            f"has a DoRA {role} {shape} of {length} {_SIDES[axis]} but an update of {size}",
        )
    if norms is not None and norms.numel() != length:
        origin.refuse(
            direction.name, f"has a DoRA {role} {shape} but an initial_norm {list(norms.shape)}"
        )
    ones = (1,) * max(len(shape) - 2, 0)
    column = magnitude.reshape(-1, 1, *ones)
    return DoraAdapter(direction, column.transpose(0, 1) if axis else column, axis, norms)


def refuse_lone_magnitude(module: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> None:
    """Refuses a magnitude that has nothing to scale.

    Raises:
        ProLoRAError: there is one.
    """
    for role in _ROLES:
        if role in parts:
            origin.refuse(module, f"has a DoRA {role} but no LoRA or other update beside it")
