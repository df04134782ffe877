"""The tables of the pages in docs/."""

import re

Row = dict[str, str]


def tables(page: str) -> list[list[Row]]:
    """The tables of a page, a row as column -> cell."""
    found = []
    for block in re.findall(r"(?:^\|.*\n)+", page, re.MULTILINE):
        head, _, *body = ([c.strip() for c in line.split("|")[1:-1]] for line in block.splitlines())
        assert all(len(cells) == len(head) for cells in body), head
        found.append([dict(zip(head, cells, strict=True)) for cells in body])
    return found
