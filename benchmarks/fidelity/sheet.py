"""The picture of docs/evidence.md: one LoRA on every target, in every way."""

import io
from pathlib import Path

from demo.sheet import Column, draw_sheet
from demo.training.sheet import tile
from prolora.files.atomic_write import atomic_write

from .loras import Subject
from .measures import draw
from .models import DISTILLED, TARGETS, network
from .rows import Case, as_trained, ways
from .worn import Worn

PICTURE = Path(__file__).resolve().parents[2] / "docs" / "evidence.png"
SUBJECT = Subject("style", "cyanotype", rank=32)
NAMES = ("food-fruit", "animal-mammal", "face-concerned")
COLUMNS = ("none", "copy", "prolora", "full", "theseus", "calibrated", "refined", "retrained")
ENLARGE = 2


def write_picture(path: Path = PICTURE, seed: int = 1) -> None:
    """Rows are targets, columns ways; each cell has three prompts, from the same noise in all."""
    cells: dict[str, list[bytes]] = {"source": [], **{column: [] for column in COLUMNS}}
    for target in TARGETS:
        case = Case(target, SUBJECT, seed)
        with Worn(case.source.model, as_trained(case.source)).on(network(case.source.model)):
            cells["source"].append(_cell(case.source.model))
        every = ways(case)
        for column in COLUMNS:
            with Worn(target, every[column]() or ()).on(network(target)):
                cells[column].append(_cell(target))
    titles = {"source": "A with the LoRA", "none": "the target without", "copy": "copied"}
    columns = [Column(titles.get(name, name), pictures) for name, pictures in cells.items()]
    sheet = draw_sheet(list(TARGETS), columns)
    with atomic_write(path) as temporary:
        sheet.quantize(128).save(temporary, format="PNG", optimize=True)


def _cell(which: str) -> bytes:
    """A strip of pictures, PNG."""
    pictures = draw(network(which), list(NAMES), which == DISTILLED, seed=7)
    encoded = io.BytesIO()
    tile([pictures], ENLARGE).save(encoded, format="PNG")
    return encoded.getvalue()
