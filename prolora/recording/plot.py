"""The losses of a refinement as a picture."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..drawing.canvas import BELOW, INK, PALE, Box, Canvas, Colour, colour
from .refine import Refined

if TYPE_CHECKING:
    from PIL.Image import Image

_SIZE = (760, 440)
_BOX: Box = (84, 92, 728, 376)  # of the curves
_TITLE, _TEXT = 18, 13
_GRID, _TAUGHT, _APART = (228, 228, 232), colour(0.3), BELOW
_TICKS = 5


def draw_losses(refined: Refined) -> "Image":
    """Draws the loss of each step's batch, and that of the latents kept apart.

    Raises:
        ProLoRAError: Pillow is not installed.
    """
    canvas = Canvas()
    canvas.open(*_SIZE)
    axes = _axes(refined)
    _draw_head(canvas, refined)
    _draw_axes(canvas, axes)
    taught = [axes.place(step, loss) for step, loss in enumerate(refined.losses, 1)]
    apart = [axes.place(step, loss) for step, loss in refined.held_out]
    _draw_curve(canvas, taught, _TAUGHT, 1, 2)
    _draw_curve(canvas, apart, _APART, 2, 4)
    best = dict(refined.held_out)[refined.best]
    canvas.ring(*axes.place(refined.best, best), 8, INK)
    return canvas.image


@dataclass(frozen=True)
class _Axes:
    """Where a step and a loss stand in the picture."""

    steps: int
    low: float
    high: float

    def place(self, step: float, loss: float) -> tuple[int, int]:
        left, top, right, bottom = _BOX
        height = (loss - self.low) / (self.high - self.low)
        along = step / max(self.steps, 1)
        return round(left + along * (right - left)), round(bottom - height * (bottom - top))


def _axes(refined: Refined) -> _Axes:
    losses = [*refined.losses, *(loss for _, loss in refined.held_out)]
    margin = 0.05 * (max(losses) - min(losses)) or 0.05 * max(losses) or 1.0
    return _Axes(len(refined.losses), max(min(losses) - margin, 0.0), max(losses) + margin)


def _draw_head(canvas: Canvas, refined: Refined) -> None:
    before, after = refined.held_out[0][1], dict(refined.held_out)[refined.best]
    left = _BOX[0]
    title = f"Refined: {before:.4g} to {after:.4g}, best after step {refined.best}"
    canvas.text(left, 22, title if refined.best else "Nothing was gained", _TITLE, INK, bold=True)
    x = left
    for text, ink in (("latents kept apart", _APART), ("batch of each step", _TAUGHT)):
        canvas.line([(x, 66), (x + 26, 66)], ink, 2)
        canvas.dot(x + 13, 66, 4, ink)
        canvas.text(x + 34, 58, text, _TEXT, INK)
        x += 34 + canvas.width(text, _TEXT) + 28
    canvas.ring(x + 8, 66, 7, INK)
    canvas.text(x + 24, 58, "taken", _TEXT, INK)


def _draw_axes(canvas: Canvas, axes: _Axes) -> None:
    left, _, right, bottom = _BOX
    for tick in range(_TICKS + 1):
        loss = axes.low + (axes.high - axes.low) * tick / _TICKS
        _, y = axes.place(0, loss)
        canvas.line([(left, y), (right, y)], _GRID)
        label = f"{loss:.3g}"
        canvas.text(left - 10 - canvas.width(label, _TEXT), y - 8, label, _TEXT, PALE)
    for step in _step_ticks(axes.steps):
        x, _ = axes.place(step, axes.low)
        label = str(step)
        canvas.line([(x, bottom), (x, bottom + 5)], PALE)
        canvas.text(x - canvas.width(label, _TEXT) // 2, bottom + 8, label, _TEXT, PALE)
    canvas.line([(left, bottom), (right, bottom)], PALE)
    canvas.text(left, bottom + 32, "steps", _TEXT, INK)
    canvas.text(left - 74, 58, "loss", _TEXT, INK)


def _step_ticks(steps: int) -> Iterator[int]:
    apart = max(math.ceil(steps / _TICKS), 1)
    yield from range(0, steps + 1, apart)


def _draw_curve(
    canvas: Canvas, points: Sequence[tuple[int, int]], ink: Colour, width: int, radius: int
) -> None:
    if len(points) > 1:
        canvas.line(points, ink, width)
    for x, y in points:
        canvas.dot(x, y, radius, ink)
