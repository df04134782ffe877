"""Bad input, and the words it gets: docs/bad_input.md says them, and they say what to do."""

import re
from functools import cache

import pytest

from .bad_input.case import Case, Table, Told
from .bad_input.page import PAGE, TABLES, cell, is_as_shown, key_of, page, told
from .pages import tables

CASES = [(table, case) for table in TABLES for case in table.cases]
# What a message asks the reader to do, or to look at.
ADVICE = re.compile(
    r"\b(call|choose|connect|convert|copy|download|export|fill|give|install|keep|leave|load|look|"
    r"merge|move|name|put|record|save|see|take|update|use|wait|write)\b"
    r"|Is the name right|Is there room on the disk|Is one of these meant|Is a quote left open"
    r"|no whole number|no number|They are: |In .* are: |of 1 or more|0 steps or more",
    re.IGNORECASE,
)


@cache
def shown() -> dict[str, str]:
    """What is wrong -> the words, as the page has them."""
    titles = re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = tables(PAGE.read_text(encoding="utf-8"))
    return {
        f"{title}: {row['what is wrong']}": row["the words that it gets"]
        for title, rows in zip(titles, found, strict=True)
        for row in rows
    }


@pytest.fixture(scope="module")
def said(request) -> dict[str, Told]:
    """What every case was told; with --write-bad-input the page gets it."""
    found: dict[str, Told] = {}
    yield found
    if request.config.getoption("--write-bad-input"):
        text = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(text[: text.index("## ")] + page(found) + "\n", encoding="utf-8")


@pytest.mark.parametrize(("table", "case"), CASES, ids=[key_of(*one) for one in CASES])
def test_what_is_wrong_gets_the_words_of_the_page(
    table: Table, case: Case, tmp_path, said, request
):
    one = said[key_of(table, case)] = told(case, tmp_path)
    assert case.words in one.text
    advice = ADVICE.search(one.text)
    assert advice, one.text
    assert not re.search(r"Traceback|\bNone\b|\w+Error\b|/tmp/", one.text)
    if not request.config.getoption("--write-bad-input"):
        assert is_as_shown(one, shown()[key_of(table, case)])


def test_the_page_has_every_case_once(request):
    if request.config.getoption("--write-bad-input"):
        pytest.skip("it is written")
    assert list(shown()) == [key_of(*one) for one in CASES]
    assert len(CASES) >= 150


def test_only_what_a_library_says_may_differ():
    said = Told("a.json is no JSON (line 1). Write it anew.", "line 1")
    assert is_as_shown(said, cell("a.json is no JSON (line 1, column 2). Write it anew."))
    assert not is_as_shown(said, cell("b.json is no JSON (line 1). Write it anew."))
    assert not is_as_shown(Told("a.json has line 1."), cell("a.json has line 2."))


def test_a_cell_is_what_was_said():
    assert cell("a | b\n<c> [d] x_y `e`") == r"a &#124; b<br>\<c\> \[d\] x\_y \`e\`"
