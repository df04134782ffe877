"""Several LoRAs for the two checkpoints of command_line_files.py, and what they become."""

import csv
from pathlib import Path

from safetensors.torch import save_file

from prolora.adapters import LoraAdapter, lora_state_dict, read_adapter_file

from .checkpoints import SD3
from .command_line_files import TARGET, write_files
from .dense_reference import dense_pair, dense_project
from .small_models import delta, matrix, random_lora
from .strategies import relative_error

KEY = "model.diffusion_model.joint_blocks.{}.x_block.attn.qkv.weight"


def lora_of(number: int) -> list[LoraAdapter]:
    name = "lora_unet_joint_blocks_{}_x_block_attn_qkv"
    return [random_lora(name.format(i), (8, 8), rank=2, seed=10 * number + i) for i in (0, 1)]


def write_library(folder: Path, count: int = 3) -> list[Path]:
    """Checkpoints a and b, and LoRAs of a, s0, s1 and so on."""
    write_files(folder)
    paths = [folder / f"s{number}.safetensors" for number in range(count)]
    for number, path in enumerate(paths):
        save_file(lora_state_dict(lora_of(number)), path)
    return paths


def check_moved(path: Path, number: int) -> None:
    """That a file in fp32 is the LoRA of a number, moved to b in mode full."""
    moved = read_adapter_file(path).adapters
    assert len(moved) == 2
    for i, (before, after) in enumerate(zip(lora_of(number), moved, strict=True)):
        key = KEY.format(i)
        subspaces = dense_pair(matrix(SD3[key]), matrix(TARGET[key]), 0.8)
        want = dense_project(delta(before), *subspaces, "full")
        assert relative_error(delta(before), want) > 0.1
        assert relative_error(delta(after), want) < 1e-5


def write_endless(path: Path) -> None:
    """A LoRA that is sound by itself, and whose update is more than float32 can hold."""
    huge = [
        LoraAdapter(lora.name, lora.up * 1e25, lora.down * 1e25, None, ()) for lora in lora_of(9)
    ]
    save_file(lora_state_dict(huge), path)


def table_in(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(encoding="utf-8", newline="")))


def stamps(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """What changes when a file is written, though it were the same again."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob("*.safet*")}
