"""A job that is long enough for a signal to come in its middle, and a program that says all."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from prolora.adapters import lora_state_dict

from .small_models import random_lora

WIDE, BLOCKS = 1536, 14  # long enough for each block that a signal comes in the middle

IN_A_HURRY = """
import sys
from prolora.command_line import main
from prolora.command_line import terminal
terminal._SECONDS = 0  # between two lines of progress
sys.exit(main())
"""


def write_long_job(
    folder: Path, loras: int = 1, wide: int = WIDE, blocks: int = BLOCKS
) -> list[Path]:
    """Two checkpoints, a and b, as large as a real model's, and LoRAs of a: style, style1 ..."""
    generator = torch.Generator().manual_seed(0)
    block = "joint_blocks.{}.x_block.attn.proj"
    for name in ("a", "b"):
        tensors = {
            f"model.diffusion_model.{block.format(i)}.weight": torch.randn(
                wide, wide, generator=generator
            ).half()
            for i in range(blocks)
        }
        save_file(tensors, folder / f"{name}.safetensors")
    paths = [folder / f"style{number or ''}.safetensors" for number in range(loras)]
    for number, path in enumerate(paths):
        lora = [
            random_lora(
                f"lora_unet_{block.format(i)}".replace(".", "_"), (wide, wide), rank=1, seed=number
            )
            for i in range(blocks)
        ]
        save_file(lora_state_dict(lora), path)
    return paths
