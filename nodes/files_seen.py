"""The files that nodes used: whether one of them changed since, which IS_CHANGED has to tell."""

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from ..prolora.files.digests import stamp


class FilesSeen:
    """Counts the changes of the files that a node used, for IS_CHANGED.

    When the host asks, no file is read, and what a link gives is not known: the files of the
    earlier runs are. A node is known by its id; what other graphs' nodes of that id used counts
    too.
    """

    def __init__(self) -> None:
        self._stamps: dict[str, dict[Path, str]] = {}
        self._changes: Counter[str] = Counter()

    def note(self, node: str, paths: Iterable[Path]) -> None:
        """To be called before the node uses the files, and with those that it would use."""
        self._stamps.setdefault(node, {}).update(_stamps(paths))

    def changes(self, node: str) -> int:
        """How often one of them was found changed."""
        known = self._stamps.get(node, {})
        now = _stamps(known)
        if now != known:
            self._changes[node] += 1
            self._stamps[node] = now
        return self._changes[node]


# Of all nodes that read files by themselves.
SEEN = FilesSeen()


class ReadsFiles:
    """A node that reads files by itself, and notes each in SEEN: it runs again when one changed."""

    @classmethod
    def IS_CHANGED(cls, unique_id="", **_):
        return SEEN.changes(unique_id)


def _stamps(paths: Iterable[Path]) -> dict[Path, str]:
    """What changes when one of the files does, or comes or goes."""
    found = dict.fromkeys(paths, "")
    for path in found:
        with suppress(OSError):  # it is not there
            found[path] = stamp(path)
    return found
