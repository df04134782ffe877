"""docs/terrain.png: what both versions draw, without the LoRAs and with them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from prolora.adapters import Adapter

from .loras import as_trained
from .maps import CHANGES, SIDE, drawn
from .models import network, worn
from .rows import ALL, Case, by_weights, calibrated, forget

FILE = Path(__file__).resolve().parents[2] / "docs" / "terrain.png"
ENLARGED, GAP, HEAD = 2, 6, 16  # times, and pixels
COLOURS = 64  # of the file, so that it stays small
SEED, DIFFICULTIES = 5, (0.35, 0.85)
# Heights in the model's space, and the colours that they have.
TINTS = {-1.0: (58, 92, 120), -0.7: (86, 134, 92), -0.3: (176, 168, 112), 0.2: (142, 108, 80)}
TINTS |= {0.6: (190, 182, 176), 1.0: (255, 255, 255)}


def draw(case: Case) -> None:
    """A row for each change and difficulty, a column for each way, from the same noise."""
    columns: dict[str, list[torch.Tensor]] = {}
    for change in CHANGES:
        one = Case(case.source, case.target, change, case.seed)
        for name, (version, adapters) in _columns(one).items():
            columns.setdefault(name, []).extend(_maps(version, adapters))
    forget()
    sheet(columns).quantize(COLOURS, dither=Image.Dither.NONE).save(FILE, optimize=True)


def _columns(case: Case) -> dict[str, tuple[str, Sequence[Adapter] | None]]:
    source, target = case.source, case.target
    return {
        f"{source}": (source, None),
        "with its LoRA": (source, as_trained(case.lora)),
        f"{target}": (target, None),
        "copied": (target, by_weights(case, replace(ALL, mode="copy"))),
        "calibrated": (target, calibrated(case)),
        "retrained": (target, as_trained(case.retrained)),
    }


def _maps(version: str, adapters: Sequence[Adapter] | None) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(SEED)
    with worn(version, adapters):
        return list(drawn(network(version), torch.tensor(DIFFICULTIES), generator)[:, 0])


def sheet(columns: dict[str, list[torch.Tensor]]) -> Image.Image:
    """Maps beside and below each other, each column under its name."""
    side, rows = SIDE * ENLARGED, max(map(len, columns.values()))
    size = (len(columns) * (side + GAP) - GAP, HEAD + rows * (side + GAP) - GAP)
    page = Image.new("RGB", size, "white")
    for column, (name, maps) in enumerate(columns.items()):
        left = column * (side + GAP)
        ImageDraw.Draw(page).text((left, 2), name, fill="black")
        for row, one in enumerate(maps):
            picture = shaded(one.numpy()).resize((side, side), Image.Resampling.BICUBIC)
            page.paste(picture, (left, HEAD + row * (side + GAP)))
    return page


def shaded(heights: np.ndarray) -> Image.Image:
    """A map under light from the upper left, tinted by its heights."""
    down, right = np.gradient(heights)
    light = np.clip(0.75 + 2.0 * (down + right), 0.25, 1.15)[..., None]
    levels, colours = list(TINTS), np.array(list(TINTS.values()), dtype=float)
    tint = np.stack([np.interp(heights, levels, colours[:, c]) for c in range(3)], axis=-1)
    return Image.fromarray(np.clip(tint * light, 0, 255).astype(np.uint8))
