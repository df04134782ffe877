"""Long lists in messages for people: the first few, and how many more there are."""

from collections.abc import Iterator, Sequence


def first(items: Sequence[str], limit: int) -> Iterator[str]:
    """At most `limit` items, then "and N more" where there are more."""
    yield from items[:limit]
    if len(items) > limit:
        yield f"and {len(items) - limit} more"
