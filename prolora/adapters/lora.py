"""LoRA and LoCon: a low-rank update of a linear or convolution weight."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from ..errors import ProLoRAError
from ..projection import Factors, balance

FILE_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32}


@dataclass(frozen=True)
class LoraAdapter:
    """The update of one module: delta = (alpha / r) * up @ down.

    Attributes:
        name: the module's name as the file has it, without the suffix of the tensor.
        up: m x r; for a convolution m x r x 1 x 1.
        down: r x n; for a convolution r x in x kh x kw.
        alpha: None when the file has none; the scale is 1 then, as every loader has it.
    """

    name: str
    up: torch.Tensor
    down: torch.Tensor
    alpha: float | None

    @property
    def rank(self) -> int:
        return self.down.shape[0]

    @property
    def scale(self) -> float:
        return 1.0 if self.alpha is None else self.alpha / self.rank

    @property
    def delta_shape(self) -> tuple[int, int]:
        """m, n of the update that it makes."""
        return self.up.shape[0], self.down[0].numel()

    def factors(self, device: torch.device, dtype: torch.dtype) -> Factors:
        """The update as matrices, up m x r and down r x n, with the scale inside."""
        up = self.up.to(device, dtype).flatten(start_dim=1)
        down = self.down.to(device, dtype).flatten(start_dim=1)
        return balance(Factors(up * self.scale, down))

    def with_factors(self, factors: Factors) -> "LoraAdapter":
        """This adapter with another update, in the same layout; its alpha equals its rank.

        Args:
            factors: up m x r', down r' x n, of the same m and n, on any device.
        """
        return LoraAdapter(
            name=self.name,
            up=factors.up.cpu().reshape(-1, factors.rank, *self.up.shape[2:]),
            down=factors.down.cpu().reshape(factors.rank, *self.down.shape[1:]),
            alpha=float(factors.rank),
        )


def make_lora(name: str, parts: Mapping[str, torch.Tensor], file: str) -> LoraAdapter:
    """Builds an adapter from the tensors of one module, by role: up, down and maybe alpha.

    Raises:
        ProLoRAError: half of the pair is missing, the ranks differ, a tensor has NaN or infinity.
    """
    for role, other in (("up", "down"), ("down", "up")):
        if role not in parts:
            raise ProLoRAError(
                f"{file}: the module {name} has a LoRA {other} but no LoRA {role}. The file is "
                "damaged or was cut. Download or export it again."
            )
    up, down = parts["up"], parts["down"]
    rank = down.shape[0] if down.ndim >= 2 else 0
    if rank == 0 or up.ndim < 2 or up[0].numel() != rank:
        raise ProLoRAError(
            f"{file}: the LoRA up {list(up.shape)} and down {list(down.shape)} of the module "
            f"{name} do not multiply. The file is damaged. Download or export it again."
        )
    for role, tensor in parts.items():
        if not tensor.is_floating_point() and role != "alpha":
            raise ProLoRAError(
                f"{file}: the LoRA {role} of the module {name} is stored as {tensor.dtype}. "
                "Use an fp16, bf16 or fp32 version of this LoRA."
            )
        if not torch.isfinite(tensor.float()).all():
            raise ProLoRAError(
                f"{file}: the LoRA {role} of the module {name}, shape {list(tensor.shape)}, holds "
                "NaN or infinity: its training broke down or the file is damaged. Use another "
                "copy, or an earlier epoch of it."
            )
    if "alpha" in parts and parts["alpha"].numel() != 1:
        raise ProLoRAError(
            f"{file}: the alpha of the module {name} is not one number but "
            f"{list(parts['alpha'].shape)}. The file is damaged. Download or export it again."
        )
    alpha = float(parts["alpha"]) if "alpha" in parts else None
    return LoraAdapter(name, up, down, alpha)


def with_alpha_as_rank(adapter: LoraAdapter) -> LoraAdapter:
    """The same update, its scale inside the factors: what a file of ours holds."""
    if adapter.alpha == adapter.rank:
        return adapter
    return adapter.with_factors(adapter.factors(torch.device("cpu"), torch.float32))


def lora_state_dict(
    adapters: Iterable[LoraAdapter], dtype: torch.dtype = torch.float32
) -> dict[str, torch.Tensor]:
    """The tensors of a LoRA file, under names that every loader reads; alpha is always there.

    Module names stay as they came: the loader that read the source file knows them.

    Raises:
        ProLoRAError: a value does not fit into `dtype` (fp16 ends at 65504).
    """
    tensors: dict[str, torch.Tensor] = {}
    for adapter in adapters:
        alpha = float(adapter.rank) if adapter.alpha is None else adapter.alpha
        tensors[f"{adapter.name}.lora_up.weight"] = _narrow(adapter.up, dtype, adapter.name)
        tensors[f"{adapter.name}.lora_down.weight"] = _narrow(adapter.down, dtype, adapter.name)
        tensors[f"{adapter.name}.alpha"] = torch.tensor(alpha, dtype=torch.float32)
    return tensors


def _narrow(tensor: torch.Tensor, dtype: torch.dtype, module: str) -> torch.Tensor:
    narrowed = tensor.to(dtype)
    if not torch.isfinite(narrowed).all():
        raise ProLoRAError(
            f"The LoRA of the module {module} reaches {float(tensor.abs().max()):.3g}, which "
            f"{str(dtype).removeprefix('torch.')} cannot hold. Save it as bf16 or fp32."
        )
    return narrowed.contiguous()
