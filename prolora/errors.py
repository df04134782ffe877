"""The one exception that the core raises on purpose, and how its messages list things."""

from collections.abc import Iterable, Iterator, Sequence

_LONGEST = 200  # letters of a stranger's text
# Letters of a message that are kept of its beginning, and of its end, which says what to do.
_HEAD, _TAIL = 2000, 1000


class ProLoRAError(ValueError):
    """Something the user can act on.

    The message is written for an artist: what is wrong, in which file or module, with which
    shapes, and what to do about it. A stranger's words in it cannot steer a terminal, nor make it
    longer than a page can show.
    """

    # What shows an error (ComfyUI's page, a traceback) puts the module before the name of a class
    # that is not built in: of this one it would be a path, before the sentence to be read.
    __module__ = "builtins"

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


def truncated_list(items: Sequence[str], limit: int) -> Iterator[str]:
    """At most `limit` items, then "and N more" where there are more."""
    yield from items[:limit]
    if len(items) > limit:
        yield f"and {len(items) - limit} more"


def bullets(lines: Iterable[str]) -> Iterator[str]:
    """The lines as a list, which reads well as it is and as Markdown; an indented one is below."""
    for line in lines:
        text = line.lstrip(" ")
        yield f"{line[: len(line) - len(text)]}- {text}"


def one_line(text: object) -> str:
    """A stranger's text for page and log: cut, and without control characters."""
    fine = printable(str(text)[: 2 * _LONGEST]).replace("\n", " ")
    return fine if len(fine) <= _LONGEST else f"{fine[: _LONGEST - 3]}..."


def printable(text: str) -> str:
    """A text of lines, a stranger's words in it, without what would steer a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " for c in text)


def shown(text: str) -> str:
    """A message with a stranger's words in it, as it can be shown: printable, and not too long."""
    if len(text) > _HEAD + _TAIL:
        text = f"{text[:_HEAD]} [...] {text[-_TAIL:]}"
    return printable(text)
