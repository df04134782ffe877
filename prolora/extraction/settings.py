"""What a user chooses for an extraction."""

from dataclasses import dataclass, field

import torch

from ..algebra.devices import check_float64
from ..errors import ProLoRAError


@dataclass(frozen=True)
class ExtractionSettings:
    """The choices of an extraction, with their defaults.

    Attributes:
        rank: the largest rank of a module; 0 for no bound. A fused weight (qkv) is one module.
        energy: the share of a module's difference (of its squared Frobenius norm) that its LoRA
            keeps, in (0, 1], if `rank` has room for it: the smaller of the two ranks is taken.
        least: a module whose difference has less than this share of the weight's norm is left out.
            What is stored as fp16 is rounded by about 1e-4 of it.
        device, dtype: where and in what the difference is taken; float32 or float64. It is
            decomposed in float64.
        workers: see TransferSettings.

    Raises:
        ProLoRAError: a value is out of its range.
    """

    rank: int = 64
    energy: float = 0.99
    least: float = 1e-4
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    workers: int = 0

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ProLoRAError(f"The rank is {self.rank}; choose 1 or more, or 0 for no bound.")
        if not 0 < self.energy <= 1:
            raise ProLoRAError(
                f"The energy is {self.energy}; choose a share above 0, up to 1 (all of it)."
            )
        if not 0 <= self.least < 1:
            raise ProLoRAError(
                f"The least difference is {self.least}; choose a share of a weight's size from 0 "
                "(nothing is left out) to below 1."
            )
        if self.workers < 0:
            raise ProLoRAError(f"The number of workers is {self.workers}; choose 0, or more.")
        check_float64(self.device, "the decomposition needs")
        if self.dtype not in (torch.float32, torch.float64):
            raise ProLoRAError(
                f"The difference is taken in float32 or float64, not {self.dtype}. Choose one "
                "of them."
            )

    def described(self) -> dict[str, str]:
        """For report and header."""
        return {"rank": str(self.rank or "no bound"), "energy": f"{self.energy:g}"}


# For node, command line and library alike.
EXTRACTION_DEFAULTS = ExtractionSettings()
