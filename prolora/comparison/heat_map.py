"""A comparison of two models as a picture: the colour of a cell is the similarity."""

from collections import Counter
from collections.abc import Iterator

from ..drawing import panels
from ..drawing.canvas import BELOW, INK, PALE, Box, Canvas
from ..drawing.panels import SMALL, TEXT, TITLE, Cell, Picture, Swatch, shortened
from ..errors import truncated_list
from .figures import Comparison, Row, block_label
from .text import verdict

_LISTED = 10
_LINES = "A line is a block of the first model; after <- is the block of the second that it takes."
_SCALE = "similarity, corrected for chance"
_NONE = "unmatched, or another width"
_BELOW = "below the threshold"
_PLAIN = (236, 236, 236)


def draw(comparison: Comparison) -> Picture:
    """Draws a comparison.

    The colours are of the smaller Phi, corrected for chance; less than chance counts as 0.

    Raises:
        ProLoRAError: Pillow is not installed.
    """
    canvas = Canvas()

    def paint(box: Box, row: Row) -> None:
        _paint(canvas, box, row)
        if comparison.leaves_out(row):
            canvas.corner(box, BELOW)

    def below(box: Box) -> None:
        canvas.cell(box, _PLAIN)
        canvas.corner(box, BELOW)

    line = verdict(comparison)
    head = [
        (f"{shortened(comparison.target)}  <-  {shortened(comparison.source)}", TITLE, INK),
        (f"{line[0].upper()}{line[1:]}.", TEXT, INK),
        (_LINES, TEXT, PALE),
    ]
    swatches = [Swatch(_NONE, canvas.hatched), Swatch(_BELOW, below)]
    foot = list(_foot(comparison))
    return panels.draw(canvas, cells(comparison), paint, head, _SCALE, swatches, foot)


def cells(comparison: Comparison) -> list[Cell[Row]]:
    """A cell for each weight of the target."""
    rows = [row for row in comparison.rows if row.target]
    labels = {row.block: block_label(row) for row in reversed(rows) if row.source}
    return [
        Cell(
            row.block,
            row.module if row.block else row.target,
            labels.get(row.block, row.block) if row.block else _label(row),
            row,
        )
        for row in rows
    ]


def _label(row: Row) -> str:
    """A weight outside of blocks, then the source's, if different."""
    return row.target if row.source in ("", row.target) else f"{row.target} <- {row.source}"


def _paint(canvas: Canvas, box: Box, row: Row) -> None:
    if row.similarity is None:
        canvas.hatched(box)
    elif row.corrected is None:
        canvas.cell(box, _PLAIN)
        canvas.centred(box, "-", SMALL, PALE)
    else:
        canvas.figure(box, row.corrected, f"{max(row.corrected, 0.0):.2f}", SMALL)


def _foot(comparison: Comparison) -> Iterator[str]:
    """The source's blocks and weights that are unmatched, and the comparison's notes."""
    unmatched: dict[str, list[str]] = {}
    for pair in comparison.blocks:
        if not pair.target:
            stage, _, number = pair.source.rpartition(".")
            unmatched.setdefault(stage, []).append(number)
    if unmatched:
        yield f"Unmatched blocks of {shortened(comparison.source)}:"
        yield from (
            f"    {stage}: {', '.join(truncated_list(numbers, _LISTED))}"
            for stage, numbers in unmatched.items()
        )
    blocks = tuple(f"{pair.source}." for pair in comparison.blocks if not pair.target)
    paths = (f"{row.source}." for row in comparison.rows if not row.target)
    others = (path for path in paths if not path.startswith(blocks))
    names = Counter(path.partition(".")[0] for path in others)
    if names:
        yield f"Other unmatched weights of {shortened(comparison.source)}:"
        counts = [f"{name}: {count}" for name, count in names.items()]
        yield from (f"    {line}" for line in truncated_list(counts, _LISTED))
    yield from comparison.notes


def check_pillow() -> None:
    """Checks before a long job that its picture can be drawn.

    Raises:
        ProLoRAError: Pillow is not installed.
    """
    Canvas()
