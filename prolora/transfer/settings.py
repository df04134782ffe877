"""What a user chooses for a transfer."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from ..algebra.devices import check_float64
from ..errors import ProLoRAError
from .modes import AUTO, BY_WEIGHTS, CALIBRATED, Mode, mode_named


@dataclass(frozen=True)
class TransferSettings:
    """The choices of a transfer, with their defaults.

    Attributes:
        mode: what is moved, a name in modes.MODES.
        threshold: least similarity (Eq. 1) of a module that is moved, in [0, 1]. The paper has 0.8,
            for subspaces of more energy: at 0.8 of it unrelated weights reach 0.1 to 0.4, those of
            a far fine-tune 0.6 to 0.8 (docs/evidence.md).
        subspace_energy: share of a weight's energy that its subspace holds, in (0, 1).
        rank: of the result; a module never gets more than it has. Each part of a fused weight has
            it by itself, and the joined LoRA their sum. 0 for the source's, or for the smallest
            that keeps 99 % of the energy, where the source's family has no rank.
        unserved: the share of their neighbours' updates that blocks of the target get which
            nothing serves, in [0, 1]; see shares.py.
        copy_identical: take the update as it is where both models have the same weight.
        pairs: target block -> source block, for those that are not to be found; see block_pairs.py.
        device, dtype: where and in what the projection runs; float32 or float64.
        workers: how many modules are at work at once on the CPU; 0 for as many as torch has
            threads.
        memory: bytes, beyond the models themselves, that modules at work may take on the device; 0
            for what suits it, see backends/.

    Raises:
        ProLoRAError: a value is out of its range.
    """

    mode: str = AUTO
    threshold: float = 0.5
    subspace_energy: float = 0.8
    rank: int = 0
    unserved: float = 0.0
    copy_identical: bool = True
    pairs: Mapping[str, str | None] = field(default_factory=dict)
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    workers: int = 0
    memory: int = 0

    @property
    def chosen_mode(self) -> Mode:
        """The row of the mode."""
        return mode_named(self.mode)

    def settled(self, recorded: bool) -> "TransferSettings":
        """The same with mode auto decided.

        Args:
            recorded: whether there is a recording.
        """
        decided = CALIBRATED if recorded else BY_WEIGHTS
        return replace(self, mode=decided) if self.mode == AUTO else self

    def __post_init__(self) -> None:
        mode_named(self.mode)
        if not 0 <= self.threshold <= 1:
            raise ProLoRAError(f"The threshold is {self.threshold}; choose one from 0 to 1.")
        if not 0 < self.subspace_energy < 1:
            raise ProLoRAError(
                f"The subspace energy is {self.subspace_energy}; choose one between 0 and 1, "
                "both excluded (0.8 is a good value; at 1 no null space is left)."
            )
        if not 0 <= self.unserved <= 1:
            raise ProLoRAError(
                f"The share for unserved blocks is {self.unserved}; choose one from 0 to 1."
            )
        if self.rank < 0:
            raise ProLoRAError(f"The rank is {self.rank}; choose 0 for the source's, or more.")
        if self.workers < 0:
            raise ProLoRAError(f"The number of workers is {self.workers}; choose 0, or more.")
        if self.memory < 0:
            raise ProLoRAError(f"The memory is {self.memory} bytes; choose 0, or more.")
        check_float64(self.device, "subspaces need")
        if self.dtype not in (torch.float32, torch.float64):
            raise ProLoRAError(
                f"The projection runs in float32 or float64, not in {self.dtype}. Choose one of "
                "them."
            )


# For nodes, command line and library alike.
DEFAULTS = TransferSettings()
