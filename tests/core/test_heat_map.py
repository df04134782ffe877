"""The heat map: what colour stands where, and that nothing lies on something else."""

import sys
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import ImageFont

from prolora.comparison.heat_map import cells, draw
from prolora.drawing.canvas import colour
from prolora.drawing.panels import Picture, panels
from prolora.errors import ProLoRAError

from .compared_models import compared, tuned, weights, without_block
from .small_models import drifted, random_weight

DARK, BRIGHT = (68, 1, 84), (253, 231, 37)  # both ends of the scale


def pixels(found: Picture, block: str, module: str) -> np.ndarray:
    left, top, right, bottom = found.cells[block, module]
    return np.asarray(found.image)[top:bottom, left:right].astype(int)


def fill(found: Picture, block: str, module: str) -> np.ndarray:
    """The colour of a cell, beside its figure."""
    return pixels(found, block, module)[-3, 3]


def lightness(rgb: tuple[int, int, int]) -> float:
    """CIE L*, by the definitions of sRGB and CIELAB."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(rgb) / 255
    ]
    Y = float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
    return 116 * Y ** (1 / 3) - 16 if Y > 0.008856 else 903.3 * Y


def test_the_scale_gets_lighter_in_even_steps():
    steps = np.diff([lightness(colour(i / 20)) for i in range(21)])
    assert np.all(abs(steps - steps.mean()) < 0.35 * steps.mean())
    assert steps.sum() > 70
    assert (colour(0), colour(1)) == (DARK, BRIGHT)
    assert (colour(-0.3), colour(1.2)) == (DARK, BRIGHT)


def test_equal_weights_are_bright_and_unrelated_ones_dark():
    source = weights(3)
    target = dict(source)
    for name in ("attn.q", "conv"):
        target[f"blocks.1.{name}"] = random_weight(source[f"blocks.1.{name}"].shape, seed=777)
    comparison = compared(source, target)
    found = draw(comparison)
    assert set(found.cells) == {(row.block, row.module) for row in comparison.rows}
    for block, module in found.cells:
        row = next(r for r in comparison.rows if (r.block, r.module) == (block, module))
        if row.target not in ("blocks.1.attn.q", "blocks.1.conv"):
            assert tuple(fill(found, block, module)) == BRIGHT
            continue
        assert row.corrected < 0.3
        assert lightness(fill(found, block, module)) < 45
        # What a transfer leaves out is marked in red, the others are not.
        assert is_marked(found, block, module)
        assert not is_marked(found, "blocks.0", module)


def is_marked(found: Picture, block: str, module: str) -> bool:
    corner = pixels(found, block, module)[:6, -6:].reshape(-1, 3)
    return bool(((corner[:, 0] > 180) & (corner[:, 1:].max(axis=1) < 80)).any())


def test_what_is_unmatched_is_hatched_in_grey():
    source = weights(2)
    target = tuned(source, 0.1)
    target |= {key.replace("blocks.0", "blocks.2"): w for key, w in weights(1, first=500).items()}
    found = draw(compared(source, target))
    for block, grey in (("blocks.2", True), ("blocks.1", False)):
        cell = pixels(found, block, "attn.q")[:-1, :-1]
        assert bool((np.ptp(cell, axis=2) < 10).all()) == grey
        assert len(np.unique(cell.reshape(-1, 3), axis=0)) >= 2


def test_no_cell_lies_on_another_or_outside():
    source = {}
    for stage, depth, names in (("double", 7, "abcde"), ("single", 30, "xy"), ("tail", 1, "pq")):
        for i in range(depth):
            source |= {f"{stage}.{i}.{n}": random_weight((8, 8), seed=i) for n in names}
    source |= {"first": random_weight((8, 8)), "last": random_weight((8, 8))}
    comparison = compared(source, tuned(source))
    found = draw(comparison)
    assert [panel.title for panel in panels(cells(comparison))] == [
        "double", "single", "tail", "outside of blocks",
    ]  # fmt: skip
    width, height = found.image.size
    boxes = list(found.cells.values())
    assert len(boxes) == len(source)
    assert all(0 < b[0] < b[2] < width and 0 < b[1] < b[3] < height for b in boxes)
    for a, b in combinations(boxes, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]


def test_a_module_that_a_block_lacks_leaves_its_place_empty():
    source = weights(3)
    del source["blocks.2.attn.out.0"]
    found = draw(compared(source, tuned(source)))
    left, _, right, _ = found.cells["blocks.1", "attn.out.0"]
    _, top, _, bottom = found.cells["blocks.2", "attn.q"]
    assert (np.asarray(found.image)[top:bottom, left:right] == 255).all()
    assert ("blocks.2", "attn.out.0") not in found.cells


@pytest.mark.parametrize("blocks", [0, 1])
def test_few_blocks(blocks):
    source = weights(blocks)
    found = draw(compared(source, tuned(source)))
    assert len(found.cells) == len(source)


def test_a_large_model_fits_on_a_page():
    """As many blocks as SDXL has transformers, and long names."""
    names = [f"attn{i}.to_{part}" for i in (1, 2) for part in ("q", "k", "v", "out.0")]
    weight = random_weight((4, 4))
    stage = "output_blocks.{}.1.transformer_blocks.{}.{}"
    source = {stage.format(i, j, n): weight for i in range(7) for j in range(10) for n in names}
    source |= {f"input_blocks.{i}.0.in_layers.{j}": weight for i in range(9) for j in (0, 2)}
    found = draw(compared(source, source))
    assert len(found.cells) == 70 * 8 + 18
    assert max(found.image.size) < 2000


def test_blocks_that_no_block_takes_are_named():
    """Below the panels: the picture is taller for them."""
    source = weights(4)
    child = tuned(without_block(source, 1), 0.1)
    whole = draw(compared(child, child)).image.size
    assert draw(compared(source, child)).image.size[1] > whole[1]


def test_names_that_the_font_does_not_have():
    source = {"блок.0.слой": random_weight((8, 8)), "блок.0.层": random_weight((8, 8), 1)}
    assert len(draw(compared(source, {k: drifted(w) for k, w in source.items()})).cells) == 2


def test_the_font_of_an_older_pillow(monkeypatch):
    old = ImageFont.load_default_imagefont if hasattr(ImageFont, "load_default_imagefont") else None
    if old is None:
        pytest.skip("this Pillow has no bitmap font to try")

    def load_default():  # without a size, as before 10.1
        return old()

    source = {"блок.0.a": random_weight((8, 8)), "блок.0.b": random_weight((8, 8), 1)}
    comparison = compared(source, {k: drifted(w) for k, w in source.items()})
    new = draw(comparison)
    monkeypatch.setattr(ImageFont, "load_default", load_default)
    found = draw(comparison)
    assert len(found.cells) == 2
    assert found.image.tobytes() != new.image.tobytes()


def test_without_pillow(monkeypatch):
    source = weights(1)
    comparison = compared(source, tuned(source))
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ProLoRAError) as error:
        draw(comparison)
    assert "pip install pillow" in str(error.value)


def test_chance_alone_gives_one():
    """A vector-like weight has no figure: neither bright nor dark."""
    ones = {"blocks.0.a": torch.ones(1, 1), "blocks.0.b": random_weight((8, 8))}
    other = {"blocks.0.a": 2 * torch.ones(1, 1), "blocks.0.b": random_weight((8, 8), 1)}
    found = draw(compared(ones, other))
    assert np.ptp(fill(found, "blocks.0", "a")) == 0
