"""Draw a contact sheet of all that was trained, to look at.

    python -m demo.training.sheet --tarballs FOLDER --out sheet.png [--names apple,rocket]

Rows: Noto, A, Twemoji, B, the style, A with the LoRA, B with the LoRA copied on. Half a minute on
2 CPU cores for a dozen names.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from torch.nn.functional import interpolate

from demo.emoji.code import PatchCode
from demo.emoji.names import NAMES, parse_names
from demo.emoji.prompt import encode_names
from demo.training.data import VENDORS, cyanotype, on_white, read_emoji
from demo.training.flow import sample
from demo.training.model import Lora, load_model
from demo.training.train import CHECKPOINTS, LORA_FILE


def tile(rows: list[torch.Tensor], enlarge: int) -> Image.Image:
    """Lay rows of pictures [N, 3, H, W] under each other."""
    grid = torch.stack(rows).permute(0, 3, 1, 4, 2).flatten(2, 3).flatten(0, 1)  # R*H, N*W, 3
    large = interpolate(grid.movedim(-1, 0)[None], scale_factor=enlarge, mode="bicubic")
    pixels = (large[0].clamp(0, 1) * 255).round().byte().movedim(0, -1)
    return Image.fromarray(pixels.numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarballs", type=Path, default=Path(), help="folder of the two tarballs")
    parser.add_argument("--out", type=Path, default=Path("sheet.png"))
    parser.add_argument("--names", default=",".join(NAMES[::24]), help="short names with commas")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--enlarge", type=int, default=2)
    options = parser.parse_args()

    names, code = parse_names(options.names), PatchCode.load()
    prompt = encode_names(names)
    rows: list[torch.Tensor] = []
    styled: list[torch.Tensor] = []
    for which, vendor in VENDORS.items():
        emoji = read_emoji(options.tarballs, vendor)[[NAMES.index(name) for name in names]]
        pictures = on_white(emoji)
        model = load_model(CHECKPOINTS[which])
        rows += [pictures, code.decode(sample(model, *prompt, options.seed, options.steps))]
        if LORA_FILE.is_file():
            with Lora(model).load(LORA_FILE).on(model):
                drawn = code.decode(sample(model, *prompt, options.seed, options.steps))
            styled += [cyanotype(pictures), drawn] if which == "a" else [drawn]
    tile(rows + styled, options.enlarge).save(options.out)


if __name__ == "__main__":
    main()
