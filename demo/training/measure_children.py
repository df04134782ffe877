"""Print the figures of MODELS.md on A's children: drift, and what the LoRA does on them, with the
blocks paired by hand and transferred.

    python -m demo.training.measure_children --tarballs FOLDER

Takes two minutes of one CPU core.
"""

import argparse
import re
from collections import defaultdict
from functools import partial
from pathlib import Path

from demo.emoji.code import PatchCode
from demo.training.children import CHILDREN, Blocks, source_key
from demo.training.data import VENDORS, cyanotype, on_white, read_emoji
from demo.training.measure import drifts, print_modes
from demo.training.model import Lora, load_model
from demo.training.train import CHECKPOINTS, LORA_FILE, Task

# Other ways to pair: by name, and with a block off by one.
WRONG: dict[str, tuple[Blocks, ...]] = {
    "pruned": ((0, 1), (1, 2)),
    "deepened": ((0, 1, 2, None), (0, None, 1, 2), (None, 0, 1, 2)),
}


def print_drift(which: str) -> None:
    """The mean drift of each surviving block, and of all weights that A has."""
    drift = drifts(which, partial(source_key, blocks=CHILDREN[which]))
    places: dict[str, list[float]] = defaultdict(list)
    for key, value in drift.items():
        block = re.match(r"joint_blocks\.\d+", key)
        places[block[0] if block else "outside the blocks"].append(value)
    for place, values in places.items():
        print(f"{which}: drift {sum(values) / len(values):.3f}  {place} ({len(values)})")
    print(f"{which}: drift {sum(drift.values()) / len(drift):.3f}  mean over {len(drift)} weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarballs", type=Path, default=Path(), help="folder of the two tarballs")
    pictures = on_white(read_emoji(parser.parse_args().tarballs, VENDORS["a"]))
    code = PatchCode.load()
    own, style = Task.of(pictures, code), Task.of(cyanotype(pictures), code)
    for which, blocks in CHILDREN.items():
        print_drift(which)
        model = load_model(CHECKPOINTS[which])
        print(f"{which}: own pictures, without LoRA: {own.held_out(model):.4f}")
        print(f"{which}: style pictures, without LoRA: {style.held_out(model):.4f}")
        for pairing in (blocks, *WRONG[which]):
            lora = Lora(model).load(LORA_FILE, partial(source_key, blocks=pairing))
            with lora.on(model):
                print(f"{which}: style pictures, LoRA by {pairing}: {style.held_out(model):.4f}")
        print_modes(which, model, style)


if __name__ == "__main__":
    main()
