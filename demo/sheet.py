"""One picture out of many: a row for each prompt, a column for each model."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import wrap

from PIL import Image, ImageDraw, ImageFont

MARGIN = 12
HEADER = 64
LABEL = 130
BACKGROUND, INK = (250, 250, 250), (40, 40, 40)


@dataclass(frozen=True)
class Column:
    """A title, and one encoded picture for each row."""

    title: str
    pictures: Sequence[bytes]


def draw_sheet(rows: Sequence[str], columns: Sequence[Column]) -> Image.Image:
    """Lays out the pictures, all of one size, under the titles and beside the names of the rows."""
    cells = [[Image.open(io.BytesIO(data)) for data in column.pictures] for column in columns]
    width, height = cells[0][0].size
    sheet = Image.new(
        "RGB",
        (LABEL + len(columns) * (width + MARGIN), HEADER + len(rows) * (height + MARGIN)),
        BACKGROUND,
    )
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for x, (column, pictures) in enumerate(zip(columns, cells, strict=True)):
        left = LABEL + x * (width + MARGIN)
        title = "\n".join(wrap(column.title, width=17))
        draw.text((left + width // 2, HEADER // 2), title, INK, font, anchor="mm", align="center")
        for y, picture in enumerate(pictures):
            sheet.paste(picture, (left, HEADER + y * (height + MARGIN)))
    for y, name in enumerate(rows):
        middle = HEADER + y * (height + MARGIN) + height // 2
        draw.text(
            (MARGIN, middle), "\n".join(wrap(name.replace("_", " "), 13)), INK, font, anchor="lm"
        )
    return sheet
