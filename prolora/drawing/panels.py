"""A picture of a model: a line for each block, a column for each module, a cell where both meet.

Each kind of block has its own panel; blocks are of one kind if most of their modules have the same
names. What a cell shows is the caller's.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Generic, TypeVar

from ..errors import truncated_list
from .canvas import CELL, INK, PALE, Box, Canvas, Colour, colour

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")

TITLE, TEXT, SMALL = 22, 13, 11  # sizes of letters
LINE = 20
_MARGIN, _GAP, _STAGE_GAP = 28, 44, 6
_COLUMN_HEIGHT = 1000  # of panels below each other; more where one panel is taller
_SCALE_WIDTH = 220
_LONGEST_NAME = 48


@dataclass(frozen=True)
class Cell(Generic[T]):
    """One module.

    Attributes:
        block: its line; "" outside of blocks, where each module has its own.
        module: its column, within the block; outside of blocks the whole path.
        label: of its line.
        content: what is painted.
    """

    block: str
    module: str
    label: str
    content: T


@dataclass(frozen=True)
class Picture:
    """A picture and the places of its cells.

    Attributes:
        image: RGB.
        cells: (block, module) -> the box of the cell.
    """

    image: "Image"
    cells: dict[tuple[str, str], Box]


@dataclass(frozen=True)
class Swatch:
    """An entry of the legend: a cell, and what it means."""

    text: str
    paint: Callable[[Box], None]


@dataclass
class Panel(Generic[T]):
    """The blocks of one kind.

    Attributes:
        modules: the columns, as keys.
        lines: block -> module -> cell.
    """

    modules: dict[str, None] = field(default_factory=dict)
    lines: dict[str, dict[str, Cell[T]]] = field(default_factory=dict)

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


class Outside(Panel[T]):
    """The modules outside of blocks; each has its own line."""

    @property
    def title(self) -> str:
        return "outside of blocks"

    def stage(self, block: str) -> str:
        return ""


def panels(cells: Iterable[Cell[T]]) -> list[Panel[T]]:
    """The panels of the blocks in the order of the cells, then the one outside of blocks."""
    blocks: dict[str, dict[str, Cell[T]]] = {}
    outside: Outside[T] = Outside({"": None})
    for cell in cells:
        if cell.block:
            blocks.setdefault(cell.block, {})[cell.module] = cell
        else:
            outside.lines[cell.module] = {"": cell}
    found: list[Panel[T]] = []
    for block, modules in blocks.items():
        panel = next((p for p in found if _of_one_kind(p, modules)), None)
        if panel is None:
            panel = Panel()
            found.append(panel)
        panel.modules |= dict.fromkeys(modules)
        panel.lines[block] = modules
    return [*found, outside] if outside.lines else found


def _of_one_kind(panel: Panel[T], modules: dict[str, Cell[T]]) -> bool:
    return 2 * len(panel.modules.keys() & modules.keys()) >= len(modules)


def _list_of(block: str) -> str:
    return block.rpartition(".")[0]


def _name_of_list(block: str) -> str:
    """The last name in a block's path that is not a number."""
    return next((part for part in reversed(block.split(".")) if not part.isdecimal()), block)


def shortened(name: str) -> str:
    """A file's name that fits into a title."""
    half = _LONGEST_NAME // 2
    return name if len(name) <= _LONGEST_NAME else f"{name[:half]}...{name[-half:]}"


def draw(
    canvas: Canvas,
    cells: Iterable[Cell[T]],
    paint: Callable[[Box, T], None],
    head: Sequence[tuple[str, int, Colour]],
    scale: str,
    swatches: Sequence[Swatch],
    foot: Sequence[str],
) -> Picture:
    """Draws lines of text, a legend, the panels, and more text.

    Args:
        canvas: not opened yet.
        paint: draws what a cell has into its box.
        head, foot: texts; of the head with size and colour.
        scale: what the scale of colours means.
        swatches: the legend beside it.
    """
    placed = [_Placed(panel, canvas) for panel in panels(cells)]
    columns = _columns(placed) if placed else []
    widths = [max(panel.width for panel in column) for column in columns]
    texts = [canvas.width(text, size) for text, size, _ in head]
    texts += [canvas.width(line, TEXT) for line in foot]
    panels_width = sum(widths) + _GAP * max(len(widths) - 1, 0)
    width = max(panels_width, _legend_width(canvas, scale, swatches), *texts)
    top = _MARGIN + sum(size + 10 for _, size, _ in head) + 2 * LINE + 34
    heights = (sum(p.height for p in column) + _GAP * (len(column) - 1) for column in columns)
    bottom = top + max(heights, default=0) + (_GAP // 2 if foot else 0)
    canvas.open(width + 2 * _MARGIN, bottom + LINE * len(foot) + _MARGIN)

    y = _MARGIN
    for text, size, ink in head:
        canvas.text(_MARGIN, y, text, size, ink, bold=size == TITLE)
        y += size + 10
    _draw_legend(canvas, y + 6, scale, swatches)
    places: dict[tuple[str, str], Box] = {}
    x = _MARGIN
    for column, column_width in zip(columns, widths, strict=True):
        y = top
        for panel in column:
            places |= panel.draw(x, y, paint)
            y += panel.height + _GAP
        x += column_width + _GAP
    for i, line in enumerate(foot):
        canvas.text(_MARGIN, bottom + i * LINE, line, TEXT, PALE)
    return Picture(canvas.image, places)


class _Placed(Generic[T]):
    """A panel with its measures in pixels."""

    def __init__(self, panel: Panel[T], canvas: Canvas) -> None:
        self.panel, self.canvas = panel, canvas
        first = {name: next(iter(cells.values())) for name, cells in panel.lines.items()}
        self.labels = {name: cell.label for name, cell in first.items()}
        self.label_width = max(canvas.width(label, TEXT) for label in self.labels.values()) + 10
        names = [canvas.slanted_size(name, TEXT) for name in panel.modules]
        self.header = max(height for _, height in names) if any(panel.modules) else 6
        columns = max((i + 1) * CELL[0] - 24 + width for i, (width, _) in enumerate(names))
        columns = max(columns, len(names) * CELL[0])
        self.width = max(self.label_width + columns, canvas.width(panel.title, TEXT + 2))
        gaps = _STAGE_GAP * panel.gaps
        self.height = LINE + 4 + self.header + len(panel.lines) * CELL[1] + gaps

    def draw(self, x: int, y: int, paint: Callable[[Box, T], None]) -> dict[tuple[str, str], Box]:
        canvas, left = self.canvas, x + self.label_width
        canvas.text(x, y, self.panel.title, TEXT + 2, INK, bold=True)
        y += LINE + 4 + self.header
        for i, name in enumerate(self.panel.modules):
            canvas.slanted(left + (i + 1) * CELL[0] - 24, y - 1, name, TEXT, INK)
        places: dict[tuple[str, str], Box] = {}
        before = None
        for block, cells in self.panel.lines.items():
            stage = self.panel.stage(block)
            y += _STAGE_GAP if before not in (None, stage) else 0
            before = stage
            label = self.labels[block]
            canvas.text(left - 10 - canvas.width(label, TEXT), y + 1, label, TEXT, INK)
            for i, name in enumerate(self.panel.modules):
                if name in cells:
                    box = (left + i * CELL[0], y, left + (i + 1) * CELL[0], y + CELL[1])
                    paint(box, cells[name].content)
                    places[cells[name].block, cells[name].module] = box
            y += CELL[1]
        return places


def _columns(placed: Sequence[_Placed[T]]) -> list[list[_Placed[T]]]:
    """Panels in columns, as many below each other as a column has room for."""
    room = max(_COLUMN_HEIGHT, *(panel.height for panel in placed))
    columns: list[list[_Placed[T]]] = [[]]
    for panel in placed:
        used = sum(other.height + _GAP for other in columns[-1])
        if columns[-1] and used + panel.height > room:
            columns.append([])
        columns[-1].append(panel)
    return columns


def _legend_width(canvas: Canvas, scale: str, swatches: Sequence[Swatch]) -> int:
    texts = sum(canvas.width(swatch.text, TEXT) for swatch in swatches)
    beside = len(swatches) * (CELL[0] + 8 + LINE + 16)
    return canvas.width(scale, TEXT) + 12 + _SCALE_WIDTH + LINE + 8 + texts + beside


def _draw_legend(canvas: Canvas, y: int, scale: str, swatches: Sequence[Swatch]) -> None:
    x = _MARGIN
    canvas.text(x, y + 1, scale, TEXT, INK)
    x += canvas.width(scale, TEXT) + 12
    for i in range(_SCALE_WIDTH):
        canvas.box((x + i, y, x + i + 1, y + CELL[1]), colour(i / (_SCALE_WIDTH - 1)))
    for i in range(6):
        tick = f"{i / 5:.1f}"
        place = x + round(i / 5 * (_SCALE_WIDTH - 1))
        canvas.box((place, y + CELL[1], place + 1, y + CELL[1] + 4), PALE)
        canvas.text(place - canvas.width(tick, SMALL) // 2, y + CELL[1] + 5, tick, SMALL, PALE)
    x += _SCALE_WIDTH + LINE + 8
    for swatch in swatches:
        swatch.paint((x, y, x + CELL[0], y + CELL[1]))
        canvas.text(x + CELL[0] + 8, y + 1, swatch.text, TEXT, INK)
        x += CELL[0] + 8 + canvas.width(swatch.text, TEXT) + LINE + 16
