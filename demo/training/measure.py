"""Print the figures of MODELS.md: how far B drifted from A, and what the LoRA does on each,
copied onto B and transferred to it in every mode.

    python -m demo.training.measure --tarballs FOLDER

Takes a minute of one CPU core.
"""

import argparse
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file

from demo.emoji.code import PatchCode
from demo.training.data import VENDORS, cyanotype, on_white, read_emoji
from demo.training.model import PREFIX, Lora, load_model
from demo.training.train import CHECKPOINTS, LORA_FILE, Task
from prolora import TransferSettings, load_checkpoint, lora_state_dict, read_adapter_file, transfer
from prolora.files import write_safetensors
from prolora.projection import MODES


def drifts() -> dict[str, float]:
    """Relative drift ||W_b - W_a|| / ||W_a|| of every 2-D weight."""
    a, b = (load_file(path) for path in CHECKPOINTS.values())
    return {
        key.removeprefix(PREFIX): ((b[key].float() - w).norm() / w.norm()).item()
        for key, w in ((key, value.float()) for key, value in a.items())
        if w.dim() == 2
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarballs", type=Path, default=Path(), help="folder of the two tarballs")
    tarballs = parser.parse_args().tarballs

    drift = drifts()
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
    with TemporaryDirectory() as folder:
        for mode in MODES:  # the last model is B
            moved = Lora(model).load(transferred(mode, Path(folder)))
            with moved.on(model):
                print(f"b: style pictures, LoRA in mode {mode}: {style.held_out(model):.4f}")


def transferred(mode: str, folder: Path) -> Path:
    """The file of the LoRA, moved from A to B with the default settings but for the mode."""
    source, target = (load_checkpoint(path) for path in CHECKPOINTS.values())
    file = read_adapter_file(LORA_FILE)
    result = transfer(file, source, target, TransferSettings(mode=mode))
    path = folder / f"{mode}.safetensors"
    write_safetensors(lora_state_dict(result.adapters), path, result.metadata())
    return path


if __name__ == "__main__":
    main()
