"""The canvas that pictures are drawn on: Pillow, its own font, and a scale of colours.

Written for Pillow 9.2 and later; before 10.1 its font has one size and no letters beyond Latin-1.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ProLoRAError

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont
    from PIL.ImageFont import ImageFont as BitmapFont

Colour = tuple[int, int, int]
Box = tuple[int, int, int, int]  # left, top, right, bottom; the last two excluded

INK, PALE, WHITE = (28, 28, 32), (96, 96, 104), (255, 255, 255)
BELOW = (213, 43, 30)
CELL = (40, 19)

# The scale "viridis" (van der Walt and Smith, public domain) at nine places. Its lightness rises
# evenly, so it can be read without telling red from green.
_SCALE = (
    (68, 1, 84),
    (71, 45, 123),
    (59, 82, 139),
    (44, 114, 142),
    (33, 145, 140),
    (40, 174, 128),
    (94, 201, 98),
    (173, 220, 48),
    (253, 231, 37),
)


def colour(value: float) -> Colour:
    """The colour of a value from 0 to 1; a value outside counts as the nearer end."""
    place = min(max(value, 0.0), 1.0) * (len(_SCALE) - 1)
    i = min(int(place), len(_SCALE) - 2)
    red, green, blue = (
        round(a + (b - a) * (place - i)) for a, b in zip(_SCALE[i], _SCALE[i + 1], strict=True)
    )
    return red, green, blue


class Canvas:
    """Measures texts at any time, and draws after `open`. All measures are pixels.

    Raises:
        ProLoRAError: Pillow is not installed.
    """

    def __init__(self) -> None:
        try:
            from PIL import Image, ImageDraw, ImageFont
        except ImportError as error:
            raise ProLoRAError(
                "The picture needs Pillow, which is not installed: pip install pillow. Without it "
                "there is the text."
            ) from error
        self._image, self._draw, self._font = Image, ImageDraw, ImageFont
        self._fonts: dict[int, FreeTypeFont | BitmapFont] = {}

    def open(self, width: int, height: int) -> None:
        """Makes a white image."""
        self.image = self._image.new("RGB", (width, height), WHITE)
        self._sheet = self._draw.Draw(self.image)

    # Texts; x, y is the upper left corner, or the beginning of a slanted text

    def width(self, text: str, size: int) -> int:
        """The width of a text."""
        return math.ceil(self._font_of(size).getlength(self._drawable(text, size)))

    def text(self, x: int, y: int, text: str, size: int, ink: Colour, bold: bool = False) -> None:
        for shift in (0, 1) if bold else (0,):  # the font has one weight
            place = (x + shift, y)
            self._sheet.text(place, self._drawable(text, size), ink, self._font_of(size))

    def centred(self, box: Box, text: str, size: int, ink: Colour) -> None:
        _, top, _, bottom = self._font_of(size).getbbox("0")
        x = (box[0] + box[2] - self.width(text, size)) // 2
        y = (box[1] + box[3] - round(top + bottom)) // 2
        self.text(x, y, text, size, ink)

    def slanted_size(self, text: str, size: int) -> tuple[int, int]:
        """The width and height of a slanted text."""
        return self._slanted(text, size).size

    def slanted(self, x: int, y: int, text: str, size: int, ink: Colour) -> None:
        """Draws a text upwards to the right, beginning at x, y."""
        mask = self._slanted(text, size)
        self.image.paste(ink, (x, y - mask.size[1]), mask)

    def _slanted(self, text: str, size: int) -> "Image":
        horizontal = self._image.new("L", (self.width(text, size) + 2, size + 5), 0)
        writer = self._draw.Draw(horizontal)
        writer.text((1, 0), self._drawable(text, size), 255, self._font_of(size))
        return horizontal.rotate(45, self._image.Resampling.BICUBIC, expand=True)

    # Boxes

    def box(self, box: Box, fill: Colour) -> None:
        self._sheet.rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill)

    def cell(self, box: Box, fill: Colour) -> None:
        """Draws a box with a white line around it."""
        self.box(box, WHITE)
        self.box((box[0], box[1], box[2] - 1, box[3] - 1), fill)

    def figure(self, box: Box, value: float, text: str, size: int) -> None:
        """Draws a cell in the colour of a value from 0 to 1, with a text that stands out."""
        fill = colour(value)
        self.cell(box, fill)
        dark = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] < 128
        self.centred(box, text, size, WHITE if dark else (0, 0, 0))

    def hatched(self, box: Box) -> None:
        """Draws a box with grey diagonal lines."""
        width, height = box[2] - box[0] - 1, box[3] - box[1] - 1
        tile = self._image.new("RGB", (width, height), (240, 240, 240))
        lines = self._draw.Draw(tile)
        for start in range(-height, width, 6):
            lines.line((start, height, start + height, 0), (168, 168, 172))
        self.image.paste(tile, (box[0], box[1]))

    def corner(self, box: Box, fill: Colour) -> None:
        """Draws a mark in the upper right corner of a cell."""
        right, top = box[2] - 2, box[1]
        for size, ink in ((9, WHITE), (7, fill)):
            self._sheet.polygon(((right - size, top), (right, top), (right, top + size)), ink)

    # Curves

    def line(self, points: Sequence[tuple[int, int]], ink: Colour, width: int = 1) -> None:
        """Draws a line through points."""
        self._sheet.line(list(points), ink, width, joint="curve")

    def dot(self, x: int, y: int, radius: int, ink: Colour) -> None:
        self._sheet.ellipse((x - radius, y - radius, x + radius, y + radius), ink)

    def ring(self, x: int, y: int, radius: int, ink: Colour) -> None:
        box = (x - radius, y - radius, x + radius, y + radius)
        self._sheet.ellipse(box, outline=ink, width=2)

    def _font_of(self, size: int) -> "FreeTypeFont | BitmapFont":
        if size not in self._fonts:
            try:
                self._fonts[size] = self._font.load_default(size)
            except (TypeError, ImportError, OSError):  # Pillow before 10.1, or without FreeType
                self._fonts[size] = self._font.load_default()
        return self._fonts[size]

    def _drawable(self, text: str, size: int) -> str:
        if isinstance(self._font_of(size), self._font.FreeTypeFont):
            return text
        return text.encode("latin-1", "replace").decode("latin-1")
