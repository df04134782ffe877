"""The pictures of a folder, as every judge gets them: RGB, upright, on white."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ProLoRAError, truncated_list

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_DEEP = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")  # Pillow's modes of more than 8 bits


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, in the order of their names; without those of its sub-folders.

    Raises:
        ProLoRAError: it is no folder, or holds no picture.
    """
    found = _listed(folder)
    if not found:
        raise ProLoRAError(
            f"{folder} holds no pictures ({', '.join(SUFFIXES)}). Name the folder that they lie in."
        )
    return found


def folders_of(name: str, folder: Path) -> dict[str, list[Path]]:
    """The rows that a folder stands for: itself, or its sub-folders where it holds no pictures.

    Args:
        name: of the row; "" for the folder's own.

    Returns:
        Name of the row -> its pictures.

    Raises:
        ProLoRAError: there is no picture in the folder, nor in a sub-folder.
    """
    if _listed(folder):
        return {name or folder.resolve().name: pictures_in(folder)}
    below = sorted(path for path in folder.iterdir() if path.is_dir())
    rows = {path.name: pictures for path in below if (pictures := _listed(path))}
    if not rows:
        pictures_in(folder)  # says that there are none
    if name and len(rows) > 1:
        raise ProLoRAError(
            f"{folder} holds no pictures but folders of them: {', '.join(rows)}. Name it without "
            f"{name}=, and each of them is a row."
        )
    return {name or row: pictures for row, pictures in rows.items()}


def _listed(folder: Path) -> list[Path]:
    if not folder.is_dir():
        wrong = "is no folder" if folder.exists() else "does not exist"
        raise ProLoRAError(f"{folder} {wrong}. Name a folder of pictures.")
    names = (path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    return sorted(path for path in names if path.is_file() and not path.name.startswith("."))


def read_picture(path: Path) -> "Image":
    """A picture in RGB; what is transparent in it lies on white.

    Raises:
        ProLoRAError: Pillow is not installed, or the file is no picture of 8 bits a channel.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ProLoRAError("Pictures need Pillow: pip install pillow") from error
    try:
        with Image.open(path) as file:
            image = ImageOps.exif_transpose(file)
            image.load()
            moves = getattr(file, "n_frames", 1) > 1
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ProLoRAError(
            f"{path} could not be read as a picture: {error}. Save it anew, or take it away."
        ) from error
    if moves:
        raise ProLoRAError(f"{path} is an animation. Save the one picture that counts.")
    if image.mode in _DEEP:
        raise ProLoRAError(
            f"{path} has more than 8 bits a channel ({image.mode}). Save it with 8 bits."
        )
    if "A" in image.mode or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def check_pictures(paths: Iterable[Path]) -> set[tuple[int, int]]:
    """Reads every picture, before the long job, and gives the sizes that occur."""
    return {read_picture(path).size for path in paths}


def about_sizes(sizes: set[tuple[int, int]], seen: int) -> list[str]:
    """What is to be said of the sizes of the pictures.

    Args:
        seen: the side of what judges look at, in pixels.
    """
    said = []
    if len(sizes) > 1:
        some = truncated_list([f"{width} x {height}" for width, height in sorted(sizes)], 4)
        said.append(f"The pictures have {len(sizes)} sizes ({', '.join(some)}); all are scaled.")
    if any(min(size) < seen for size in sizes):
        said.append(
            f"Pictures smaller than {seen} pixels are scaled up; the judges know sharper ones."
        )
    if any(width != height for width, height in sizes):
        said.append("Of pictures that are not square, most judges see the middle square.")
    return said
