"""Print the figures of MODELS.md: how far B drifted from A, and what the LoRA does on each.

    python -m demo.training.measure --tarballs FOLDER

Takes half a minute of one CPU core.
"""

import argparse
from collections import defaultdict
from contextlib import nullcontext
from pathlib import Path

from safetensors.torch import load_file

from demo.emoji.code import PatchCode
from demo.training.data import VENDORS, cyanotype, on_white, read_emoji
from demo.training.model import PREFIX, Lora, load_model
from demo.training.train import CHECKPOINTS, LORA_FILE, Task


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
        for kind, shown in (("own", pictures), ("style", cyanotype(pictures))):
            task = Task.of(shown, code)
            for label, context in (("without", nullcontext()), ("with", lora.on(model))):
                with context:
                    print(f"{which}: {kind} pictures, {label} LoRA: {task.held_out(model):.4f}")


if __name__ == "__main__":
    main()
