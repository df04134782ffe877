"""A transfer as a picture: how much of each module came over; report_text.py has it in words."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from ..drawing import panels
from ..drawing.canvas import BELOW, INK, PALE, WHITE, Box, Canvas, Colour
from ..drawing.panels import SMALL, TEXT, TITLE, Cell, Picture, Swatch, shortened
from ..errors import truncated_list
from ..models.model import UNET
from .report import ModuleReport, Report
from .report_text import is_as_it_is, verdict_of, warning_of

_LISTED = 8  # how many reasons are listed before the rest is counted
_LETTERS = "abcdefgh"  # a reason each
_LINES = "A line is a block of the target; after <- is the block of the source that it takes."


@dataclass(frozen=True)
class _Scale:
    """What the colour of a moved module is.

    Attributes:
        says: the same, for people.
        of: a module, from 0 to 1; None where there is no such figure.
    """

    says: str
    of: Callable[[ModuleReport], float | None]


def _similarity_of(row: ModuleReport) -> float | None:
    return None if row.measures.similarity is None else row.measures.similarity.score


_ENERGY = _Scale("moved: share of the energy kept", lambda row: row.energy_kept)
_SIMILARITY = _Scale("moved as it is: similarity of the two weights", _similarity_of)


def draw(report: Report) -> Picture:
    """Draws a line for each block of the target, a column for each module.

    What was moved has a colour and its share of the energy, or, in a mode that moves it as it is,
    the similarity of its two weights; what was copied or shared has a sign, and what was skipped is
    hatched, with a letter for the reason. Signs and hatches tell without colours, and the colours
    of the scale by their lightness alone.

    Raises:
        ProLoRAError: Pillow is not installed.
    """
    canvas = Canvas()
    letters = _letters(report)
    scale = _SIMILARITY if is_as_it_is(report) else _ENERGY
    signs: dict[str, Callable[[Box, ModuleReport], None]] = {
        "moved": lambda box, row: _moved(canvas, box, scale.of(row)),
        "copied": lambda box, _: _sign(canvas, box, "="),
        "shared": lambda box, _: _sign(canvas, box, "~"),
        "skipped": lambda box, row: _skipped(canvas, box, letters.get(_kind(row), "")),
    }
    swatches = [
        Swatch("copied as it was", lambda box: _sign(canvas, box, "=")),
        Swatch("skipped", lambda box: _skipped(canvas, box, "a" if letters else "")),
    ]
    if report.count("shared"):
        swatches.append(Swatch("a share of its neighbours'", lambda box: _sign(canvas, box, "~")))
    return panels.draw(
        canvas,
        cells(report),
        lambda box, row: signs[row.status](box, row),
        list(_head(report)),
        scale.says,
        swatches,
        list(_foot(report, letters, scale)),
    )


def cells(report: Report) -> list[Cell[ModuleReport]]:
    """A cell for each row that has a place in the target, in the target's order of blocks."""
    order = {block: place for place, block in enumerate(report.pairs)}
    found = [_cell(row, report) for row in report.rows if row.target_key]
    return sorted(found, key=lambda cell: order.get(cell.block, len(order)))


def _cell(row: ModuleReport, report: Report) -> Cell[ModuleReport]:
    path, source = _path(row.target_key), _path(row.source_key)
    block = _block_of(path, report.pairs)
    if not block:
        label = path if source in ("", path) else f"{path} <- {source}"
        return Cell("", path, label, row)
    taken = report.pairs[block]
    stage = block.rpartition(".")[0]
    short = (taken or "").removeprefix(f"{stage}.")
    label = block if taken in (None, block) else f"{block} <- {short}"
    return Cell(block, path.removeprefix(f"{block}."), label, row)


def _path(key: str) -> str:
    """The module of a weight, with its part where it is fused."""
    weight, bracket, part = key.partition("[")
    return weight.removeprefix(UNET).removesuffix(".weight") + bracket + part


def _block_of(path: str, blocks: Mapping[str, str | None]) -> str:
    """The innermost block that a module lies in; "" outside of blocks."""
    parts = path.split(".")
    around = (".".join(parts[:end]) for end in range(len(parts) - 1, 0, -1))
    return next((block for block in around if block in blocks), "")


def _kind(row: ModuleReport) -> str:
    """The reason, without its figures."""
    return row.reason.partition(":")[0]


def _skipped_in_place(report: Report) -> Iterator[ModuleReport]:
    return (row for row in report.rows if row.status == "skipped" and row.target_key)


def _letters(report: Report) -> dict[str, str]:
    """Kind of reason -> its letter; of those that have a cell, the most frequent first."""
    kinds = Counter(map(_kind, _skipped_in_place(report))).most_common(len(_LETTERS))
    return {kind: letter for (kind, _), letter in zip(kinds, _LETTERS, strict=False)}


def _moved(canvas: Canvas, box: Box, figure: float | None) -> None:
    if figure is None:
        _sign(canvas, box, "+")
    else:
        canvas.figure(box, figure, f"{figure:.2f}", SMALL)


def _sign(canvas: Canvas, box: Box, sign: str) -> None:
    canvas.cell(box, (222, 226, 232))
    canvas.centred(box, sign, TEXT, INK)


def _skipped(canvas: Canvas, box: Box, letter: str) -> None:
    canvas.hatched(box)
    if letter:
        middle = (box[0] + box[2]) // 2
        canvas.box((middle - 7, box[1] + 2, middle + 7, box[3] - 3), WHITE)
        canvas.centred(box, letter, TEXT, INK)


def _head(report: Report) -> Iterator[tuple[str, int, Colour]]:
    yield f"{shortened(report.lora)}  ->  {shortened(report.target)}", TITLE, INK
    warning = warning_of(report)
    if warning:
        yield f"{warning.partition('. ')[0]}.", TEXT, BELOW
    yield f"{verdict_of(report)}.", TEXT, INK
    yield _LINES, TEXT, PALE


def _foot(report: Report, letters: Mapping[str, str], scale: _Scale) -> Iterator[str]:
    """What the letters mean, and the modules that have no cell."""
    counts = Counter(map(_kind, _skipped_in_place(report)))
    for kind, letter in letters.items():
        yield f"{letter}   {kind}: {counts[kind]}"
    if any(row.status == "moved" and scale.of(row) is None for row in report.rows):
        yield "+   moved by another way than a projection, so there is no share"
    homeless = Counter(_kind(row) for row in report.rows if not row.target_key)
    if homeless:
        yield f"modules of the LoRA without a place in the target: {sum(homeless.values())}"
        lines = [f"{kind}: {count}" for kind, count in homeless.most_common()]
        yield from (f"    {line}" for line in truncated_list(lines, _LISTED))
