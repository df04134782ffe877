"""What the campaign keeps of what it found."""

import pytest

from benchmarks.evidence.page import with_section
from tests.imports import ROOT
from tests.reliability.told import FILE, SECTIONS, Told, keep, read, table


def told(**given) -> Told:
    usual = {"section": "faults", "tried": "a save is killed", "host": "-", "times": 1000}
    usual |= {"found": "1,000 whole files", "seconds": 90.4, "date": "2026-11-28"}
    return Told(**{**usual, "command": "pytest tests/reliability/test_killed.py", **given})


def test_a_line_takes_the_place_of_the_earlier_one(tmp_path):
    file = tmp_path / "told.csv"
    first, other = told(), told(host="0.33.0")
    keep(first, file)
    keep(other, file)
    assert read(file) == [first, other]
    again = told(found="999 whole files", seconds=80.0)
    keep(again, file)
    assert read(file) == [again, other]


def test_a_section_that_the_page_lacks_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no section is called luck"):
        keep(told(section="luck"), tmp_path / "told.csv")


def test_a_table_says_it_all():
    assert table([told()]).splitlines()[-1] == (
        "| a save is killed | - | 1,000 | 1,000 whole files | 90 s | 2026-11-28 | "
        "`pytest tests/reliability/test_killed.py` |"
    )


def test_what_is_kept_is_of_sections_that_there_are():
    assert {line.section for line in read(FILE)} <= set(SECTIONS)


def test_the_page_shows_what_is_kept():
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    lines = read(FILE)
    for section in SECTIONS:
        of = [line for line in lines if line.section == section]
        assert page == with_section(page, section, table(of) if of else "Nothing yet.")
