"""Pages whose words are written by hand, and whose figures by what measured them."""

import re
from pathlib import Path

from prolora.files.atomic_write import write_text

_ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    _ROOT / "docs" / "evidence.md",
    _ROOT / "docs" / "reliability.md",
    _ROOT / "README.md",
)


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
    """Puts a part's tables into their place, on whichever page that is.

    Raises:
        ValueError: no page has such a place.
    """
    for path in PAGES:
        page = path.read_text(encoding="utf-8")
        if f"<!-- {name} -->" in page:
            changed = with_section(page, name, text)
            if changed != page:
                write_text(path, changed)
            return
    raise ValueError(f"no page has a place for {name}")
