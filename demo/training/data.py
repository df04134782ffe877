"""The training pictures: emoji of 32 pixels on white, out of two npm tarballs.

Get the tarballs with

    npm pack emoji-datasource-google@16.0.0 emoji-datasource-twitter@16.0.0

and pass the folder that they lie in to `train.py`.
"""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from demo.emoji.code import PATCH, PatchCode
from demo.emoji.names import NAMES

SIZE = 32
CHANNELS = 16
LATENT_STD = 1 / 1.5305  # the SD3 latent format multiplies by 1.5305, so the model sees about 1
TABLE = "package/emoji.json"
VENDORS = {"a": "google", "b": "twitter"}

# A cyanotype: one blue ink on pale paper, dark where the picture is dark.
INK = torch.tensor([0.02, 0.10, 0.45])
PAPER = torch.tensor([0.84, 0.93, 1.00])
LUMA = torch.tensor([0.299, 0.587, 0.114])


def tarball(tarballs: Path, vendor: str) -> Path:
    return tarballs / f"emoji-datasource-{vendor}-16.0.0.tgz"


def read_table(tarballs: Path, vendor: str) -> list[dict]:
    """What the tarball says of each emoji: name, file, subcategory, who has a picture of it."""
    return json.loads(_members(tarball(tarballs, vendor), {TABLE})[TABLE])


def read_emoji(tarballs: Path, vendor: str, names: Sequence[str] = NAMES) -> torch.Tensor:
    """Return the pictures [N, 4, 32, 32] of names, colour times opacity and opacity, in 0..1."""
    path = tarball(tarballs, vendor)
    images = {entry["short_name"]: entry["image"] for entry in read_table(tarballs, vendor)}
    files = [f"package/img/{vendor}/64/{images[name]}" for name in names]
    found = _members(path, set(files))
    # Premultiplied ("a"), so that shrinking mixes no colour of invisible pixels in.
    pictures = [Image.open(io.BytesIO(found[f])).convert("RGBA").convert("RGBa") for f in files]
    small = [picture.resize((SIZE, SIZE), Image.Resampling.BOX) for picture in pictures]
    rows = [np.frombuffer(picture.tobytes(), np.uint8).reshape(SIZE, SIZE, 4) for picture in small]
    return torch.from_numpy(np.stack(rows)).movedim(-1, 1).float() / 255


def on_white(emoji: torch.Tensor) -> torch.Tensor:
    """Lay premultiplied emoji [N, 4, H, W] on white: [N, 3, H, W]."""
    colour, opacity = emoji.split([3, 1], dim=1)
    return colour + (1 - opacity)


def cyanotype(pictures: torch.Tensor) -> torch.Tensor:
    """Print pictures [N, 3, H, W] in shades of blue, by their luminance."""
    luma = torch.einsum("nchw,c->nhw", pictures, LUMA).unsqueeze(1)
    return torch.lerp(INK.view(3, 1, 1), PAPER.view(3, 1, 1), luma)


def swapped(pictures: torch.Tensor) -> torch.Tensor:
    """Give red the blue, green the red and blue the green of pictures [N, 3, H, W]."""
    return pictures[:, [2, 0, 1]]


STYLES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "cyanotype": cyanotype,
    "swapped": swapped,
}


def fit_code(pictures: torch.Tensor) -> PatchCode:
    """Principal components of all 4 x 4 patches of pictures [N, 3, H, W].

    Each channel is scaled by the root of its standard deviation: with equal scales the noise
    would drown the fine channels, with fully whitened ones they would cost as much as the coarse.
    """
    mean = pictures.mean(dim=(0, 2, 3))
    centred = pictures - mean.view(3, 1, 1)
    patches = centred.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH)  # N 3 h w 4 4
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH * PATCH)
    _, singular, basis = torch.linalg.svd(rows.T @ rows / len(rows))
    std = singular[:CHANNELS].sqrt()
    scale = std.sqrt() * std.mean().sqrt()
    scale *= (std / scale).square().mean().sqrt() / LATENT_STD
    return PatchCode(basis[:CHANNELS].reshape(CHANNELS, 3, PATCH, PATCH).contiguous(), scale, mean)


def _members(path: Path, names: set[str]) -> dict[str, bytes]:
    """Read files of a tarball in one pass: a gzip stream has no cheap way back."""
    with tarfile.open(path, "r|gz") as tar:
        return {info.name: tar.extractfile(info).read() for info in tar if info.name in names}
