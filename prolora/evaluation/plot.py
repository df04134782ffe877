"""An evaluation as one picture: a panel for each measure, a line for each row."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..drawing.canvas import INK, PALE, Canvas, Colour, colour
from ..drawing.panels import LINE, SMALL, TEXT, shortened
from .figures import Figure
from .job import Evaluation
from .measures import Measure
from .text import measured, said

if TYPE_CHECKING:
    from PIL.Image import Image

_MARGIN, _GAP, _COLUMNS = 28, 40, 3
_PANEL, _HEAD, _FOOT = 300, 52, 26  # width of a panel's scale; above and below its lines
_STEP = 26  # from line to line
_TICKS = 6  # at most
_LEGEND = "large: the mean; line: the deviation; small: single pictures"
_SINGLE: Colour = (196, 208, 220)
_GRID: Colour = (228, 228, 232)
_MEAN = colour(0.3)


def draw(evaluation: Evaluation) -> "Image":
    """Draws every figure, with its deviation and those of single pictures.

    Raises:
        ProLoRAError: Pillow is not installed.
    """
    measures = measured(evaluation)
    rows = list(evaluation.counts)
    canvas = Canvas()
    labels = max(canvas.width(shortened(row), TEXT) for row in rows) + 14
    figures = evaluation.figures
    texts = max(canvas.width(said(f, m), TEXT) for m in measures for f in figures[m.name].values())
    columns = min(_COLUMNS, len(measures))
    width, height = labels + _PANEL + texts + 14, _HEAD + _STEP * len(rows) + _FOOT
    lines = -(-len(measures) // columns)
    canvas.open(
        columns * (width + _GAP) - _GAP + 2 * _MARGIN,
        lines * (height + _GAP) - _GAP + LINE + 2 * _MARGIN,
    )
    for i, measure in enumerate(measures):
        x = _MARGIN + i % columns * (width + _GAP)
        y = _MARGIN + i // columns * (height + _GAP)
        _draw_panel(canvas, x, y, labels, measure, rows, figures[measure.name])
    canvas.text(_MARGIN, canvas.image.height - _MARGIN - SMALL, _LEGEND, SMALL, PALE)
    return canvas.image


@dataclass(frozen=True)
class _Scale:
    """Where a value stands."""

    left: int
    low: float
    high: float

    def place(self, value: float) -> int:
        return round(self.left + (value - self.low) / (self.high - self.low) * _PANEL)

    @property
    def ticks(self) -> list[float]:
        """Round values, two to six of them."""
        wide = self.high - self.low
        power = 10.0 ** math.floor(math.log10(wide))
        step = next(s for s in (power / 5, power / 2, power, 2 * power) if wide / s <= _TICKS)
        first, last = math.ceil(self.low / step), math.floor(self.high / step)
        return [i * step for i in range(first, last + 1)]


def _scale(left: int, figures: Mapping[str, Figure]) -> _Scale:
    """From the least that is drawn to the most, with some room at both ends."""
    ends: list[float] = []
    for figure in figures.values():
        apart = figure.deviation or 0.0
        ends += [figure.mean - apart, figure.mean + apart, *figure.values.values()]
    room = 0.05 * (max(ends) - min(ends)) or 0.05 * abs(ends[0]) or 1.0
    return _Scale(left, min(ends) - room, max(ends) + room)


def _draw_panel(
    canvas: Canvas,
    x: int,
    y: int,
    labels: int,
    measure: Measure,
    rows: Sequence[str],
    figures: Mapping[str, Figure],
) -> None:
    canvas.text(x, y, measure.name, TEXT + 2, INK, bold=True)
    canvas.text(x, y + LINE, f"{measure.says}; {measure.better} is better", SMALL, PALE)
    scale = _scale(x + labels, figures)
    top = y + _HEAD
    bottom = top + _STEP * len(rows)
    for value in scale.ticks:
        place, label = scale.place(value), f"{value:.6g}"
        canvas.line([(place, top), (place, bottom)], _GRID)
        canvas.text(place - canvas.width(label, SMALL) // 2, bottom + 5, label, SMALL, PALE)
    for i, row in enumerate(rows):
        height = top + i * _STEP + _STEP // 2
        name = shortened(row)
        canvas.text(x + labels - 14 - canvas.width(name, TEXT), height - 8, name, TEXT, INK)
        figure = figures.get(row)
        if figure is not None:
            _draw_figure(canvas, scale, height, figure)
        canvas.text(scale.left + _PANEL + 14, height - 8, said(figure, measure), TEXT, INK)


def _draw_figure(canvas: Canvas, scale: _Scale, y: int, figure: Figure) -> None:
    for value in figure.values.values():
        canvas.dot(scale.place(value), y, 2, _SINGLE)
    if figure.deviation is not None:
        ends = (figure.mean - figure.deviation, figure.mean + figure.deviation)
        canvas.line([(scale.place(end), y) for end in ends], _MEAN, 2)
    canvas.dot(scale.place(figure.mean), y, 5, _MEAN)
