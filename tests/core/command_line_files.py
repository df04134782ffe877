"""Files for the command line, and the program as artists start it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from prolora.adapters import lora_state_dict

from .checkpoints import SD3
from .small_models import drifted, random_lora

ROOT = Path(__file__).parents[2]
LORA = [random_lora(f"lora_unet_joint_blocks_{i}_x_block_attn_qkv", (8, 8), rank=2) for i in (0, 1)]
TARGET = {key: drifted(weight, seed=100 + i) for i, (key, weight) in enumerate(SD3.items())}


def write_files(folder: Path) -> Path:
    """Two checkpoints, a and b, and a LoRA of a, style."""
    save_file(SD3, folder / "a.safetensors")
    save_file(TARGET, folder / "b.safetensors")
    save_file(lora_state_dict(LORA), folder / "style.safetensors", {"ss_tag": "x" * 300})
    return folder


def arguments(folder: Path, *more: str, out: str = "out.safetensors") -> list[str]:
    """Of a transfer that projects all of the LoRA."""
    files = [str(folder / name) for name in ("style.safetensors", "a.safetensors", "b.safetensors")]
    lora, source, target = files
    choices = [lora, "--source", source, "--target", target, "-o", str(folder / out)]
    return ["transfer", *choices, "--mode", "full", "--threshold", "0.1", *more]


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "prolora", *arguments]


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def run(folder: Path, *arguments: str, **more: Any) -> subprocess.CompletedProcess[Any]:
    """The program, started in a folder."""
    choices = {"env": environment(), "capture_output": True, "text": True, **more}
    return subprocess.run(command(*arguments), cwd=folder, timeout=120, check=False, **choices)
