"""Folders of small pictures to be judged."""

from pathlib import Path

import numpy as np
from PIL import Image


def picture(seed: int, size: tuple[int, int] = (48, 48)) -> Image.Image:
    """Two colours and a disc, which the seed chooses; pictures of noise would all look alike."""
    rng = np.random.default_rng(seed)
    width, height = size
    ground, ink = rng.integers(0, 256, (2, 3))
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height))
    left, top = rng.uniform(-0.5, 0.5, 2)
    disc = (x - left) ** 2 + (y - top) ** 2 < rng.uniform(0.1, 0.6)
    pixels = np.where(disc[..., None], ink, ground)
    return Image.fromarray(pixels.astype(np.uint8))


def write_pictures(folder: Path, count: int, first: int = 0, size: tuple[int, int] = (48, 48)):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"picture_{i:05}_.png" for i in range(count)]
    for i, path in enumerate(paths):
        picture(first + i, size).save(path)
    return paths
