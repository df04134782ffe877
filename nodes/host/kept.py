"""What the pack keeps in memory between two runs of a graph, for as long as the host wants it."""

import weakref

from ...prolora.algebra.kept import Kept

_alive: weakref.ref[Kept] | None = None


def kept() -> Kept:
    """What is kept, one for all; a node asks for it when it is made and holds it.

    The host holds the node's object beside its cache, and drops it where it empties that: when a
    user frees the memory (POST /free with free_memory), or when no graph has the node any more. The
    last of them takes with it what is kept.
    """
    global _alive
    found = _alive() if _alive is not None else None
    if found is None:
        found = Kept()
        _alive = weakref.ref(found)
    return found


def forget() -> None:
    """Drops what is kept."""
    found = _alive() if _alive is not None else None
    if found is not None:
        found.forget()
