"""A comparison of two models as a picture: a line for each block, a column for each module.

The colour of a cell is the similarity. Each kind of block has its own panel; blocks are of one kind
if most of their modules have the same names.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from ..drawing.canvas import BELOW, CELL, INK, PALE, WHITE, Box, Canvas, Colour, colour
from ..errors import truncated_list
from .figures import Comparison, Row, block_label
from .text import verdict

if TYPE_CHECKING:
    from PIL.Image import Image

_MARGIN, _GAP, _STAGE_GAP = 28, 44, 6
_TITLE, _TEXT, _SMALL = 22, 13, 11
_LINE = 20
_COLUMN_HEIGHT = 1000  # of panels below each other; more where one panel is taller
_LONGEST_NAME = 48
_LISTED = 10


@dataclass(frozen=True)
class HeatMap:
    """A picture and the places of its cells.

    Attributes:
        image: RGB.
        cells: (block, module) -> the box of the weight's cell. Outside of blocks, the block is ""
            and the module is the weight's path.
    """

    image: "Image"
    cells: dict[tuple[str, str], Box]


@dataclass
class Panel:
    """The blocks of one kind.

    Attributes:
        modules: the columns, as keys.
        lines: block -> module -> the row of the comparison.
    """

    modules: dict[str, None] = field(default_factory=dict)
    lines: dict[str, dict[str, Row]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        names = dict.fromkeys(_name_of_list(block) for block in self.lines)
        return ", ".join(truncated_list(list(names), 3))

    def stage(self, block: str) -> str:
        """The list that a block stands in; the outermost one, if most lists have a single block."""
        if 2 * len({_list_of(other) for other in self.lines}) > len(self.lines):
            return block.split(".")[0]
        return _list_of(block)

    @property
    def gaps(self) -> int:
        stages = [self.stage(block) for block in self.lines]
        return sum(a != b for a, b in pairwise(stages))


class Outside(Panel):
    """The weights outside of blocks; each has its own line."""

    @property
    def title(self) -> str:
        return "outside of blocks"

    def stage(self, block: str) -> str:
        return ""


def draw(comparison: Comparison) -> HeatMap:
    """Draws a comparison.

    The colours are of the smaller Phi, corrected for chance; less than chance counts as 0.

    Raises:
        ProLoRAError: Pillow is not installed.
    """
    canvas = Canvas()
    columns = _columns([_Placed(panel, canvas) for panel in panels(comparison)])
    head, foot = _head(comparison), list(_foot(comparison))
    widths = [max(placed.width for placed in column) for column in columns]
    lines = [canvas.width(text, size) for text, size, _ in head]
    lines += [canvas.width(line, _TEXT) for line in foot]
    width = max(sum(widths) + _GAP * (len(widths) - 1), _legend_width(canvas), *lines)
    top = _MARGIN + sum(size + 10 for _, size, _ in head) + 2 * _LINE + 34
    height = max(sum(p.height for p in column) + _GAP * (len(column) - 1) for column in columns)
    bottom = top + height + (_GAP // 2 if foot else 0)
    canvas.open(width + 2 * _MARGIN, bottom + _LINE * len(foot) + _MARGIN)

    _draw_head(canvas, head)
    cells: dict[tuple[str, str], Box] = {}
    x = _MARGIN
    for column, column_width in zip(columns, widths, strict=True):
        y = top
        for placed in column:
            cells |= placed.draw(x, y, comparison)
            y += placed.height + _GAP
        x += column_width + _GAP
    for i, line in enumerate(foot):
        canvas.text(_MARGIN, bottom + i * _LINE, line, _TEXT, PALE)
    return HeatMap(canvas.image, cells)


def panels(comparison: Comparison) -> list[Panel]:
    """The panels of the target's blocks in its order, then the one outside of blocks."""
    blocks: dict[str, dict[str, Row]] = {}
    outside = Outside({"": None})
    for row in comparison.rows:
        if not row.target:
            continue
        if row.block:
            blocks.setdefault(row.block, {})[row.module] = row
        else:
            outside.lines[row.target] = {"": row}
    found: list[Panel] = []
    for block, modules in blocks.items():
        panel = next((p for p in found if _of_one_kind(p, modules)), None)
        if panel is None:
            panel = Panel()
            found.append(panel)
        panel.modules |= dict.fromkeys(modules)
        panel.lines[block] = modules
    return [*found, outside] if outside.lines else found


def _of_one_kind(panel: Panel, modules: dict[str, Row]) -> bool:
    return 2 * len(panel.modules.keys() & modules.keys()) >= len(modules)


def _list_of(block: str) -> str:
    return block.rpartition(".")[0]


def _name_of_list(block: str) -> str:
    """The last name in a block's path that is not a number."""
    return next((part for part in reversed(block.split(".")) if not part.isdecimal()), block)


# Panels


class _Placed:
    """A panel with its measures in pixels."""

    def __init__(self, panel: Panel, canvas: Canvas) -> None:
        self.panel, self.canvas = panel, canvas
        self.labels = {name: _label(name, cells) for name, cells in panel.lines.items()}
        self.label_width = max(canvas.width(label, _TEXT) for label in self.labels.values()) + 10
        names = [canvas.slanted_size(name, _TEXT) for name in panel.modules]
        self.header = max(height for _, height in names) if any(panel.modules) else 6
        columns = max((i + 1) * CELL[0] - 24 + width for i, (width, _) in enumerate(names))
        columns = max(columns, len(names) * CELL[0])
        self.width = max(self.label_width + columns, canvas.width(panel.title, _TEXT + 2))
        gaps = _STAGE_GAP * panel.gaps
        self.height = _LINE + 4 + self.header + len(panel.lines) * CELL[1] + gaps

    def draw(self, x: int, y: int, comparison: Comparison) -> dict[tuple[str, str], Box]:
        canvas, left = self.canvas, x + self.label_width
        canvas.text(x, y, self.panel.title, _TEXT + 2, INK, bold=True)
        y += _LINE + 4 + self.header
        for i, name in enumerate(self.panel.modules):
            canvas.slanted(left + (i + 1) * CELL[0] - 24, y - 1, name, _TEXT, INK)
        cells: dict[tuple[str, str], Box] = {}
        before = None
        for block, rows in self.panel.lines.items():
            stage = self.panel.stage(block)
            y += _STAGE_GAP if before not in (None, stage) else 0
            before = stage
            label = self.labels[block]
            canvas.text(left - 10 - canvas.width(label, _TEXT), y + 1, label, _TEXT, INK)
            for i, name in enumerate(self.panel.modules):
                if name in rows:
                    box = (left + i * CELL[0], y, left + (i + 1) * CELL[0], y + CELL[1])
                    _cell(canvas, box, rows[name], comparison)
                    cells[rows[name].block, rows[name].module] = box
            y += CELL[1]
        return cells


def _label(name: str, cells: dict[str, Row]) -> str:
    """A line's label: its block, or weight outside of blocks; then the source's, if different."""
    row = next((row for row in cells.values() if row.source), next(iter(cells.values())))
    if row.block:
        return block_label(row)
    return name if row.source in ("", name) else f"{name} <- {row.source}"


def _cell(canvas: Canvas, box: Box, row: Row, comparison: Comparison) -> None:
    if row.similarity is None:
        canvas.hatched(box)
    elif row.corrected is None:
        canvas.cell(box, (236, 236, 236))
        canvas.centred(box, "-", _SMALL, PALE)
    else:
        fill = colour(row.corrected)
        canvas.cell(box, fill)
        dark = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2] < 128
        figure = f"{max(row.corrected, 0.0):.2f}"
        canvas.centred(box, figure, _SMALL, WHITE if dark else (0, 0, 0))
    if comparison.leaves_out(row):
        canvas.corner(box, BELOW)


def _columns(placed: Sequence[_Placed]) -> list[list[_Placed]]:
    """Panels in columns, as many below each other as a column has room for."""
    room = max(_COLUMN_HEIGHT, *(panel.height for panel in placed))
    columns: list[list[_Placed]] = [[]]
    for panel in placed:
        used = sum(other.height + _GAP for other in columns[-1])
        if columns[-1] and used + panel.height > room:
            columns.append([])
        columns[-1].append(panel)
    return columns


# Title, legend, and what has no cell


def _head(comparison: Comparison) -> list[tuple[str, int, Colour]]:
    names = (_short(comparison.target), _short(comparison.source))
    line = verdict(comparison)
    return [
        (f"{names[0]}  <-  {names[1]}", _TITLE, INK),
        (f"{line[0].upper()}{line[1:]}.", _TEXT, INK),
        (_LINES, _TEXT, PALE),
    ]


def _short(name: str) -> str:
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}...{name[-half:]}"


_LINES = "A line is a block of the first model; after <- is the block of the second that it takes."
_SCALE_WIDTH = 220
_SCALE_TITLE = "similarity, corrected for chance"
_NONE = "unmatched, or another width"
_BELOW = "below the threshold"


def _legend_width(canvas: Canvas) -> int:
    texts = sum(canvas.width(text, _TEXT) for text in (_SCALE_TITLE, _NONE, _BELOW))
    return _SCALE_WIDTH + texts + 2 * CELL[0] + 4 * _LINE + 20


def _draw_head(canvas: Canvas, head: list[tuple[str, int, Colour]]) -> None:
    y = _MARGIN
    for text, size, ink in head:
        canvas.text(_MARGIN, y, text, size, ink, bold=size == _TITLE)
        y += size + 10
    y += 6
    x = _MARGIN
    canvas.text(x, y + 1, _SCALE_TITLE, _TEXT, INK)
    x += canvas.width(_SCALE_TITLE, _TEXT) + 12
    for i in range(_SCALE_WIDTH):
        canvas.box((x + i, y, x + i + 1, y + CELL[1]), colour(i / (_SCALE_WIDTH - 1)))
    for i in range(6):
        tick = f"{i / 5:.1f}"
        place = x + round(i / 5 * (_SCALE_WIDTH - 1))
        canvas.box((place, y + CELL[1], place + 1, y + CELL[1] + 4), PALE)
        canvas.text(place - canvas.width(tick, _SMALL) // 2, y + CELL[1] + 5, tick, _SMALL, PALE)
    x += _SCALE_WIDTH + _LINE + 8
    canvas.hatched((x, y, x + CELL[0], y + CELL[1]))
    canvas.text(x + CELL[0] + 8, y + 1, _NONE, _TEXT, INK)
    x += CELL[0] + canvas.width(_NONE, _TEXT) + _LINE + 16
    box = (x, y, x + CELL[0], y + CELL[1])
    canvas.cell(box, (236, 236, 236))
    canvas.corner(box, BELOW)
    canvas.text(x + CELL[0] + 8, y + 1, _BELOW, _TEXT, INK)


def _foot(comparison: Comparison) -> Iterator[str]:
    """The source's blocks and weights that are unmatched, and the comparison's notes."""
    unmatched: dict[str, list[str]] = {}
    for pair in comparison.blocks:
        if not pair.target:
            stage, _, number = pair.source.rpartition(".")
            unmatched.setdefault(stage, []).append(number)
    if unmatched:
        yield f"Unmatched blocks of {_short(comparison.source)}:"
        yield from (
            f"    {stage}: {', '.join(truncated_list(numbers, _LISTED))}"
            for stage, numbers in unmatched.items()
        )
    blocks = tuple(f"{pair.source}." for pair in comparison.blocks if not pair.target)
    paths = (f"{row.source}." for row in comparison.rows if not row.target)
    others = (path for path in paths if not path.startswith(blocks))
    names = Counter(path.partition(".")[0] for path in others)
    if names:
        yield f"Other unmatched weights of {_short(comparison.source)}:"
        counts = [f"{name}: {count}" for name, count in names.items()]
        yield from (f"    {line}" for line in truncated_list(counts, _LISTED))
    yield from comparison.notes


def check_pillow() -> None:
    """Checks before a long job that its picture can be drawn.

    Raises:
        ProLoRAError: Pillow is not installed.
    """
    Canvas()
