"""What every family of adapters answers: what one module's update is, and what it becomes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import torch

from ..algebra.updates import Update
from ..errors import ProLoRAError

_COUNTED = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.complex64),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
)

_MOST_NUMBERS = 64  # that say something of a module, as the sides of its weight


class Adapter(Protocol):
    """The update of one module."""

    @property
    def name(self) -> str:
        """The module's name as the file has it, without the suffix of the tensor."""

    @property
    def family(self) -> str:
        """As "LoRA" or "LoKr", for people."""

    @property
    def rank(self) -> int:
        """The rank of the factors; 0 for a family whose update has no low rank of its own."""

    @property
    def note(self) -> str:
        """What the user must know about how this module was read, or ""."""

    @property
    def reshape(self) -> tuple[int, ...]:
        """What the weight is padded to with zeros before the update is added; () for nothing."""

    @property
    def is_divisible(self) -> bool:
        """Whether rows of its update make an adapter of their own, and so does another width."""

    @property
    def delta_shape(self) -> tuple[int | None, int | None]:
        """m, n of the weight that it changes; None for a side that it leaves open."""

    @property
    def has_divisible_rows(self) -> bool:
        """Whether its update may move in parts, some outputs each, and be joined again."""

    def of_rows(self, start: int, length: int) -> "Adapter":
        """What of it retarget() is asked of, for the update of some outputs."""

    def kept_for(self, shape: tuple[int, ...]) -> "Adapter | None":
        """The adapter with its own tensors, bit by bit, for a weight of that shape.

        A linear layer and a 1x1 convolution are one weight in two layouts: the tensors get the
        target's.

        Returns:
            None where no loader reads such tensors, so that the update must become a LoRA.
        """

    def renamed(self, name: str) -> "Adapter":
        """The same adapter for a module of another name."""

    def update(self, weight: torch.Tensor) -> Update:
        """What it adds to the weight that it was trained on.

        Args:
            weight: that weight, in its own shape (a convolution: out x in x kh x kw), in the dtype
                and on the device to compute in.
        """

    def retarget(
        self, update: Update, rank: int, source: torch.Tensor, target: torch.Tensor
    ) -> "Retargeted":
        """This adapter with another update, for another weight.

        Args:
            update: of the target's m and n, on any device.
            rank: of the result; 0 for what suits the family.
            source, target: the weight that it was trained on, and the one it is moved to.
        """

    def tensors(self) -> dict[str, torch.Tensor]:
        """By role (see suffixes.py), what a file of it holds; its scale is in the alpha."""


@dataclass(frozen=True)
class Retargeted:
    """A moved adapter.

    Attributes:
        adapter: what goes into the file: a LoRA, a DoRA or a full difference.
        energy: ||.||_F^2 of its update.
        dropped: the share of the update's energy that the cut to its rank dropped.
    """

    adapter: Adapter
    energy: float
    dropped: float


@dataclass(frozen=True)
class Origin:
    """Where an adapter comes from.

    Attributes:
        file: the file's name, for messages.
        config: PEFT's adapter_config.json, which lies beside the weights that PEFT saves; empty
            for every other file.
    """

    file: str
    config: Mapping[str, Any] = field(default_factory=dict)

    def refuse(self, module: str, problem: str) -> NoReturn:
        """Raises the error for a module whose tensors contradict each other.

        Args:
            problem: continues "the module X ...".
        """
        raise ProLoRAError(
            f"{self.file}: the module {module} {problem}. The file is damaged or was cut. "
            "Download or export it again."
        )

    def check_finite(self, module: str, role: str, tensor: torch.Tensor) -> None:
        """Refuses a tensor that counts and holds NaN or infinity.

        Raises:
            ProLoRAError: it does.
        """
        if torch.isfinite(tensor.float()).all():
            return
        raise ProLoRAError(
            f"{self.file}: the LoRA {role} of the module {module}, shape {list(tensor.shape)}, "
            "holds NaN or infinity: its training broke down or the file is damaged. Use another "
            "copy, or an earlier epoch of it."
        )

    def countable(self, module: str, role: str, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of numbers in a type that torch counts with: it only stores those of 8 bits.

        Raises:
            ProLoRAError: it can do neither.
        """
        if tensor.dtype in _COUNTED:
            return tensor
        try:
            return tensor.to(torch.float64)
        except RuntimeError:
            self.refuse(module, f"has a LoRA {role} stored as {tensor.dtype}")

    def numbers(self, module: str, role: str, tensor: torch.Tensor) -> tuple[float, ...]:
        """What a tensor of numbers says. Asked for only where it counts: a trainer that does not
        use a number writes anything there, as ai-toolkit an alpha that fp16 makes infinite.

        Raises:
            ProLoRAError: it holds no real numbers.
        """
        if tensor.dtype.is_complex:
            self.refuse(module, f"has a LoRA {role} stored as {tensor.dtype}")
        if tensor.numel() > _MOST_NUMBERS:
            self.refuse(module, f"has {tensor.numel()} numbers as its {role}")
        self.check_finite(module, role, tensor)
        return tuple(float(number) for number in tensor.flatten())

    def number(self, module: str, role: str, tensor: torch.Tensor) -> float:
        """The same for one number.

        Raises:
            ProLoRAError: it is not one real number.
        """
        if tensor.numel() != 1:
            self.refuse(module, f"has not one number but {list(tensor.shape)} as its {role}")
        return self.numbers(module, role, tensor)[0]


# (module's name, its tensors by role, origin) -> adapter. Raises ProLoRAError for bad tensors.
Make = Callable[[str, Mapping[str, torch.Tensor], Origin], Adapter]


def alpha_of(name: str, parts: Mapping[str, torch.Tensor], origin: Origin) -> float | None:
    """The alpha of a module; None where the file has none, and the scale is 1.

    Raises:
        ProLoRAError: it is not one real number.
    """
    return origin.number(name, "alpha", parts["alpha"]) if "alpha" in parts else None
