"""The picture of a transfer: each module in its place, and its fate told without colours."""

import re
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from fixtures.inventory import inventory
from prolora.algebra.subspace import Similarity
from prolora.drawing.canvas import colour
from prolora.drawing.panels import Picture
from prolora.models.model import UNET, Model
from prolora.models.references import WeightRef
from prolora.pairing.module_tree import Node, module_tree
from prolora.transfer.report import Measures, ModuleReport, Report
from prolora.transfer.report_picture import cells, draw
from prolora.transfer.report_text import table_of

from .small_transfer import run

BELOW = "similarity below the threshold 0.8"


def row(path: str, status: str = "moved", reason: str = "", kept: float | None = None):
    key = f"{UNET}{path}.weight"
    return ModuleReport(
        path, status, reason, source_key=key, target_key=key, energy_kept=kept, family="LoRA"
    )


def report_of(*rows: ModuleReport, pairs: dict[str, str | None]) -> Report:
    settings = {"mode": "full", "threshold": "0.8", "energy": "0.8", "rank": "as in the source"}
    return Report("a.safetensors", "A (X)", "B (X)", settings, rows, pairs=pairs)


def pixels(found: Picture, block: str, module: str) -> np.ndarray:
    left, top, right, bottom = found.cells[block, module]
    return np.asarray(found.image)[top : bottom - 1, left : right - 1].astype(int)


FATES = report_of(
    row("blocks.0.a", kept=1.0),
    row("blocks.0.b", kept=0.1),
    row("blocks.1.a", "copied", "the weights are identical"),
    row("blocks.1.b", "skipped", BELOW),
    row("first", kept=0.5),
    ModuleReport("elsewhere", "skipped", "not in the target B"),
    pairs={"blocks.0": "blocks.0", "blocks.1": "blocks.3"},
)


def test_every_module_with_a_place_has_a_cell():
    found = draw(FATES)
    assert found.cells.keys() == {
        ("blocks.0", "a"), ("blocks.0", "b"), ("blocks.1", "a"), ("blocks.1", "b"), ("", "first"),
    }  # fmt: skip
    labels = {cell.block: cell.label for cell in cells(FATES)}
    assert labels["blocks.1"] == "blocks.1 <- 3"


def test_the_energy_kept_is_the_colour():
    found = draw(FATES)
    for place, kept in ((("blocks.0", "a"), 1.0), (("blocks.0", "b"), 0.1), (("", "first"), 0.5)):
        assert tuple(pixels(found, *place)[-2, 3]) == colour(kept)


def test_what_moved_as_it_is_has_its_similarity_as_the_colour():
    """The energy that it keeps is all of it, always."""
    phi = Similarity(0.7, 0.3, 0.1, 0.1)
    own = replace(row("blocks.0.a", kept=1.0), measures=Measures(similarity=phi))
    report = report_of(own, pairs={"blocks.0": "blocks.0"})
    assert tuple(pixels(draw(report), "blocks.0", "a")[-2, 3]) == colour(1.0)
    alike = replace(report, settings={**report.settings, "mode": "alike"})
    assert tuple(pixels(draw(alike), "blocks.0", "a")[-2, 3]) == colour(0.3) != colour(1.0)


def test_the_fates_are_told_without_colours():
    """In grey, a copied cell is plain but for a sign, and a skipped one is hatched."""
    found = draw(FATES)
    for place, hatched in ((("blocks.1", "a"), False), (("blocks.1", "b"), True)):
        edge = pixels(found, *place)[:, :10].mean(axis=2)  # beside the sign
        assert (edge.std() > 10) == hatched
        assert np.ptp(pixels(found, *place), axis=2).max() < 16


def test_a_share_has_a_sign_of_its_own():
    """Both neighbours of a block share with one place of it, which has one cell."""
    reason = "0.5 of what goes to its neighbour"
    own = replace(row("blocks.2.a", "shared", reason, kept=0.8), shared_from="blocks.0")
    other = replace(own, shared_from="blocks.1")
    pairs = {**FATES.pairs, "blocks.2": None}
    found = draw(replace(FATES, rows=(*FATES.rows, own, other), pairs=pairs))
    copied, shared = pixels(found, "blocks.1", "a"), pixels(found, "blocks.2", "a")
    assert np.array_equal(copied[:, :10], shared[:, :10])  # plain, beside the sign
    assert not np.array_equal(copied, shared)
    assert np.ptp(shared, axis=2).max() < 16


def test_a_letter_for_every_reason():
    """The picture is taller by a line for each."""
    more = replace(FATES, rows=(*FATES.rows, row("blocks.0.c", "skipped", "shapes differ: 1, 2")))
    lines = draw(more).image.size[1] - draw(FATES).image.size[1]
    assert lines == 20
    assert not np.array_equal(
        pixels(draw(more), "blocks.0", "c"), pixels(draw(more), "blocks.1", "b")
    )


def blocks_in(node: Node) -> list[str]:
    found = [c for c in node.children.values() if c.path.rpartition(".")[2].isdecimal()]
    own = [child.path for child in found if child.is_block]
    return own + [path for child in node.children.values() for path in blocks_in(child)]


class Shapes:
    def __init__(self, shapes):
        self.shape = shapes.__getitem__


@pytest.mark.parametrize("name", ["sdxl", "sd1", "flux-dev", "wan2.1-14b-t2v"])
def test_a_real_model_fits_on_a_page(name):
    """A LoRA of every module: nothing lies on something else."""
    shapes = {f"{UNET}{key}": shape for key, shape in inventory(name).modules.items()}
    model = Model(name, name, Shapes(shapes), {key: WeightRef(key) for key in shapes})
    blocks = blocks_in(module_tree(model))
    rows = [row(k.removeprefix(UNET).removesuffix(".weight"), kept=0.9) for k in shapes]
    found = draw(report_of(*rows, pairs={block: block for block in blocks}))
    assert len(found.cells) == len(shapes)
    assert max(found.image.size) < 2600
    width, height = found.image.size
    boxes = sorted(found.cells.values())
    assert all(0 < b[0] < b[2] < width and 0 < b[1] < b[3] < height for b in boxes)
    corners = {box[:2] for box in boxes}
    assert len(corners) == len(boxes)


def test_no_cell_lies_on_another():
    for a, b in combinations(draw(FATES).cells.values(), 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_the_table_has_a_line_for_every_module():
    report = run().report
    head, *lines = table_of(report).splitlines()
    columns = ["module", "status", "similarity", "kept", "in the target", "reason"]
    assert re.split("  +", head) == columns
    assert len(lines) == len(report.rows)
    for line, found in zip(lines, report.rows, strict=True):
        assert line.startswith(found.name) and found.status in line and found.target_key in line
        assert f"{found.energy_kept:.1%}" in line
