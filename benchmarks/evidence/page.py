"""docs/evidence.md: its words are written by hand, its figures by the parts that measured them."""

import re
from pathlib import Path

from prolora.files.atomic_write import write_text

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evidence.md"


def with_section(page: str, name: str, text: str) -> str:
    """The page with `text` between `<!-- NAME -->` and `<!-- end of NAME -->`.

    Raises:
        ValueError: the page has no such place.
    """
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    place = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if not place.search(page):
        raise ValueError(f"the page has no place {begin} ... {end}")
    return place.sub(lambda _: f"{begin}\n\n{text.strip()}\n\n{end}", page, count=1)


def write_section(name: str, text: str) -> None:
    """Puts a part's tables into their place of docs/evidence.md."""
    page = PAGE.read_text(encoding="utf-8")
    changed = with_section(page, name, text)
    if changed != page:
        write_text(PAGE, changed)
