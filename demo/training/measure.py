"""Print the figures of MODELS.md: how far B drifted from A, and what the LoRA does on each,
copied onto B and transferred to it in every mode.

    python -m demo.training.measure --tarballs FOLDER

Takes a minute of one CPU core.
"""

import argparse
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from safetensors.torch import load_file
from torch import nn

from demo.emoji.code import PatchCode
from demo.training.data import VENDORS, cyanotype, on_white, read_emoji
from demo.training.model import PREFIX, Lora, load_model
from demo.training.train import CHECKPOINTS, LORA_FILE, Task
from prolora import (
    TransferSettings,
    load_checkpoint,
    lora_state_dict,
    read_adapter_file,
    transfer_lora,
)
from prolora.files.safetensors import write_safetensors

# Modes with the rank of their result: the LoRA's own, and for casa that of its authors.
TRIED = (*((mode, 8) for mode in ("full", "prolora", "subspace", "casa", "copy")), ("casa", 32))


def drifts(which: str, source_key: Callable[[str], str | None] = str) -> dict[str, float]:
    """Relative drift ||W - W_a|| / ||W_a|| of every 2-D weight of a model that has one in A."""
    a, model = load_file(CHECKPOINTS["a"]), load_file(CHECKPOINTS[which])
    pairs = ((key, source_key(key)) for key, weight in model.items() if weight.dim() == 2)
    return {
        key.removeprefix(PREFIX): _drift(model[key].float(), a[source].float())
        for key, source in pairs
        if source is not None
    }


def _drift(weight: torch.Tensor, before: torch.Tensor) -> float:
    return ((weight - before).norm() / before.norm()).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarballs", type=Path, default=Path(), help="folder of the two tarballs")
    tarballs = parser.parse_args().tarballs

    drift = drifts("b")
    kinds: dict[str, list[float]] = defaultdict(list)
    for key, value in drift.items():
        kinds[".".join(part for part in key.split(".")[:-1] if not part.isdigit())].append(value)
    for kind, values in kinds.items():
        print(f"drift {sum(values) / len(values):.3f}  {kind} ({len(values)})")
    print(f"drift {sum(drift.values()) / len(drift):.3f}  mean over {len(drift)} weights")

    code = PatchCode.load()
    for which, vendor in VENDORS.items():
        pictures = on_white(read_emoji(tarballs, vendor))
        model = load_model(CHECKPOINTS[which])
        lora = Lora(model).load(LORA_FILE)
        own, style = Task.of(pictures, code), Task.of(cyanotype(pictures), code)
        for kind, task in (("own", own), ("style", style)):
            print(f"{which}: {kind} pictures, without LoRA: {task.held_out(model):.4f}")
            with lora.on(model):
                print(f"{which}: {kind} pictures, with LoRA: {task.held_out(model):.4f}")
    print_modes("b", model, style)  # the last model is B


def print_modes(which: str, model: nn.Module, style: Task) -> None:
    """The loss on style pictures with the LoRA moved in every mode."""
    for mode, rank in TRIED:
        with TemporaryDirectory() as folder:
            path = transferred(which, mode, rank, Path(folder))
            lora = Lora(model, rank, alpha=rank).load(path)
        with lora.on(model):
            loss = style.held_out(model)
        print(f"{which}: style pictures, LoRA in mode {mode}, rank {rank}: {loss:.4f}")


def transferred(which: str, mode: str, rank: int, folder: Path) -> Path:
    """The file of the LoRA, moved from A with the default settings but for mode and rank."""
    source, target = (load_checkpoint(CHECKPOINTS[model]) for model in ("a", which))
    file = read_adapter_file(LORA_FILE)
    result = transfer_lora(file, source, target, TransferSettings(mode=mode, rank=rank))
    path = folder / f"{which}_{mode}.safetensors"
    write_safetensors(lora_state_dict(result.adapters), path, result.metadata())
    return path


if __name__ == "__main__":
    main()
