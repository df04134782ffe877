"""How large a recording will be, told before the source is sampled for it."""

import math
from collections.abc import Sequence

import torch

from ..errors import ProLoRAError
from ..models.module_names import is_text_encoder
from ..pairing.module_pairs import ResolvedAdapter
from ..transfer.resolve import ResolvedLora
from .record import HEARD_RANK, KEPT_DTYPE, RecordingSettings

MOST = 2 << 30  # bytes
_KEPT = 3  # tensors of latents: noised, and the answers without the LoRA and with it
_NUMBER, _PLACE = 4, 12  # bytes of a number that is read, and of where that was


def expected_size(
    lora: ResolvedLora, latent: Sequence[int], samples: int, settings: RecordingSettings
) -> int:
    """About how many bytes a recording will have, of the diffusion model's modules.

    Args:
        latent: the shape of one.
    """
    count = samples * settings.levels
    latents = count * math.prod(latent) * torch.empty(0, dtype=KEPT_DTYPE).element_size() * _KEPT
    positions = -(-settings.positions // count) * count
    heard = [m for m in lora.adapters if not is_text_encoder(m.adapter.name) and len(m.shape) > 1]
    return latents + sum(_size_of(module, positions) for module in heard)


def _size_of(module: ResolvedAdapter, positions: int) -> int:
    rows, columns = module.shape[0], math.prod(module.shape[1:])
    rank = module.adapter.rank or min(HEARD_RANK, rows, columns)
    down = 0 if module.adapter.rank else rank * columns * _NUMBER
    return positions * (rank * _NUMBER + _PLACE) + down


def refuse_too_large(size: int) -> None:
    """Refuses a recording that would be too large to keep.

    Raises:
        ProLoRAError: it would.
    """
    if size > MOST:
        raise ProLoRAError(
            f"The recording would take about {size / 2**30:.1f} GB, and {MOST / 2**30:.0f} GB are "
            "the most. Lower samples, levels, or the width and height of the latent."
        )
