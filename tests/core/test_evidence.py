"""What the tables of docs/evidence.md share, and that the page has what the results say."""

import importlib
import math
import re
import shutil

import pytest
from scipy.stats import ttest_rel

from benchmarks.evidence import page, where
from benchmarks.evidence.__main__ import PARTS
from benchmarks.evidence.results import Results
from benchmarks.evidence.tables import markdown, paired, said


def test_results_resume(tmp_path):
    path = tmp_path / "new" / "found.csv"
    first = Results(path, ("target", "seed"), ("loss", "seconds"))
    first.add("b", 1, loss=0.123456789)
    first.add("b", 2, loss=1.0, seconds=2.0)
    again = Results(path, ("target", "seed"), ("loss", "seconds"))
    assert again.known("b", 1) and again.known("b", "2") and not again.known("b", 3)
    assert again.rows()[0] == {"target": "b", "seed": "1", "loss": "0.123457", "seconds": ""}


def test_results_of_other_columns_are_not_mixed(tmp_path):
    path = tmp_path / "found.csv"
    Results(path, ("target",), ("loss",)).add("b", loss=1.0)
    with pytest.raises(ValueError, match="measure anew"):
        Results(path, ("target",), ("error",))
    with pytest.raises(ValueError, match="no columns"):
        Results(path, ("target",), ("loss",)).add("c", error=1.0)


def test_a_table():
    assert markdown(["", "loss"], [["copy", 0.5], ["full", "-"]]) == (
        "|  | loss |\n| --- | --- |\n| copy | 0.500 |\n| full | - |"
    )


def test_nothing_is_said_of_fewer_than_three():
    assert said([0.5, 0.7]) == "-"
    assert said([0.5, 0.6, 0.7]) == "0.600 ± 0.100"
    assert paired([1.0, 2.0], [0.0, 0.0]) is None


def test_paired():
    ours, theirs = [0.9, 0.8, 0.95, 0.7, 0.85, 0.9], [0.8, 0.75, 0.9, 0.72, 0.7, 0.8]
    found = paired(ours, theirs)
    assert (found.cases, found.wins) == (6, 5)
    assert found.more == pytest.approx(sum(ours) / 6 - sum(theirs) / 6)
    assert found.t == ttest_rel(ours, theirs).pvalue
    # Wilcoxon by hand: of 64 sign patterns of the ranks 1 to 6, two have a sum of at most 1 on
    # either side.
    assert found.w == pytest.approx(4 / 64)
    assert not found.is_decided
    assert paired([1.0] * 3, [1.0] * 3).more == 0 and math.isnan(paired([1.0] * 3, [1.0] * 3).t)


def test_a_section_of_the_page():
    before = "# A\n\n<!-- x -->\n\nold\n\n<!-- end of x -->\n\nwords\n"
    after = page.with_section(before, "x", "| new |\n")
    assert after == "# A\n\n<!-- x -->\n\n| new |\n\n<!-- end of x -->\n\nwords\n"
    assert page.with_section(after, "x", r"a \1 b") == after.replace("| new |", r"a \1 b")
    with pytest.raises(ValueError, match="no place"):
        page.with_section(before, "y", "")


@pytest.fixture
def copied_pages(tmp_path, monkeypatch):
    copies = tuple(tmp_path / path.name for path in page.PAGES)
    for path, copy in zip(page.PAGES, copies, strict=True):
        shutil.copy(path, copy)
    monkeypatch.setattr(page, "PAGES", copies)
    return copies


def texts(paths):
    return [path.read_text(encoding="utf-8") for path in paths]


@pytest.mark.parametrize("part", PARTS)
def test_no_figure_of_the_pages_is_typed_by_hand(part, copied_pages):
    before = texts(copied_pages)
    place = re.compile(rf"(<!-- {part}\S* -->).*?(?=<!-- end of)", re.DOTALL)
    for path, text in zip(copied_pages, before, strict=True):
        path.write_text(place.sub(r"\1\n\n", text), encoding="utf-8")
    assert texts(copied_pages) != before
    _part(part).report()
    assert texts(copied_pages) == before


def test_where_it_was_measured(copied_pages):
    before = texts(copied_pages)
    where.report()
    assert texts(copied_pages) == before


def test_a_section_without_a_place(copied_pages):
    with pytest.raises(ValueError, match="no page has a place for nowhere"):
        page.write_section("nowhere", "")


def _part(name):
    try:
        return importlib.import_module(f"benchmarks.{name}")
    except ImportError as error:
        pytest.skip(f"needs what `make evidence` installs, or a ComfyUI: {error}")
