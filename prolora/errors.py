"""The one exception that the core raises on purpose, and how its messages list things."""

from collections.abc import Iterator, Sequence


class ProLoRAError(ValueError):
    """Something the user can act on.

    The message is written for an artist: what is wrong, in which file or module, with which
    shapes, and what to do about it.
    """


def truncated_list(items: Sequence[str], limit: int) -> Iterator[str]:
    """At most `limit` items, then "and N more" where there are more."""
    yield from items[:limit]
    if len(items) > limit:
        yield f"and {len(items) - limit} more"
