"""Print the figures of MODELS.md on shares for a block that nothing serves.

    python -m demo.training.measure_shares --tarballs FOLDER

On two deepened children: the demo's, whose inserted block began muted, and one whose inserted block
began as a whole copy of the block before it, which is trained here. Takes ten minutes of one CPU
core.
"""

import argparse
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from demo.emoji.code import PatchCode
from demo.training.children import source_key
from demo.training.data import VENDORS, cyanotype, on_white, read_emoji
from demo.training.model import Lora, build_model, load_model, save_model
from demo.training.train import CHECKPOINTS, LORA_FILE, RECIPES, Task, fit
from prolora import (
    TransferSettings,
    load_checkpoint,
    lora_state_dict,
    read_adapter_file,
    transfer_lora,
)
from prolora.files.safetensors import write_safetensors

COPIED = (0, 1, 1, 2)  # the blocks of A that the child begins as
STEPS = 500
SHARES = (0.0, 0.25, 0.5, 1.0)


def train_copied(pictures: Task, path: Path) -> None:
    """A with a whole copy of its second block after it, trained on."""
    recipe = replace(RECIPES["deepened"], steps=STEPS)
    torch.manual_seed(recipe.seed)
    weights = load_model(CHECKPOINTS["a"]).state_dict()
    child = build_model(len(COPIED))
    child.load_state_dict({k: weights[source_key(k, COPIED) or k] for k in child.state_dict()})
    before = pictures.held_out(child)
    averages = fit(child, child, pictures, recipe)
    save_model(averages, path)
    print(f"copied: held-out loss {before:.4f} before, {pictures.held_out(averages):.4f} after")


def print_shares(which: str, checkpoint: Path, style: Task, folder: Path) -> None:
    """The loss on style pictures for every share."""
    model = load_model(checkpoint)
    source, target = load_checkpoint(CHECKPOINTS["a"]), load_checkpoint(checkpoint)
    for mode in ("copy", "full"):
        for threshold in (0.8, 0.0):
            for share in SHARES:
                settings = TransferSettings(mode, threshold, unserved=share)
                result = transfer_lora(read_adapter_file(LORA_FILE), source, target, settings)
                path = folder / "moved.safetensors"
                write_safetensors(lora_state_dict(result.contents), path, {})
                with Lora(model).load(path).on(model):
                    loss = style.held_out(model)
                count = result.report.count("shared")
                made = f"{mode}, threshold {threshold:g}, share {share:g} ({count} modules)"
                print(f"{which}: {made}: {loss:.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarballs", type=Path, default=Path(), help="folder of the two tarballs")
    pictures = on_white(read_emoji(parser.parse_args().tarballs, VENDORS["a"]))
    code = PatchCode.load()
    style = Task.of(cyanotype(pictures), code)
    with TemporaryDirectory() as folder:
        copied = Path(folder) / "copied.safetensors"
        train_copied(Task.of(pictures, code), copied)
        print_shares("copied", copied, style, Path(folder))
        print_shares("deepened", CHECKPOINTS["deepened"], style, Path(folder))


if __name__ == "__main__":
    main()
