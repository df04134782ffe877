"""Patterns of module names in PEFT's configuration: regular expressions that a stranger wrote.

Python tries the ways in which one may fit a text one after the other. Of a pattern such as `(a+)+`
there are more than anybody can wait for, so the ways are counted before it is tried.
"""

import re
from dataclasses import dataclass
from functools import lru_cache, reduce
from operator import or_

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|.", re.DOTALL)
_MOST_WAYS = 10**6  # a few hundredths of a second
_LONGEST = 1000  # letters of a pattern


def fits(pattern: str, name: str) -> bool:
    """Whether a pattern fits the end of a module's name, from one of its parts on, as in PEFT.

    Raises:
        ValueError: it is no pattern, or one that it may take for ever to look for.
    """
    if _is_plain(pattern):
        return _ends_with(f".{name}", f".{pattern}")
    expression, ways = _compiled(pattern)
    if ways.count * (len(name) + 1) ** ways.repeated > _MOST_WAYS:
        raise ValueError("it may take for ever to find out where it fits")
    return expression.fullmatch(name) is not None


@dataclass(frozen=True)
class Ways:
    """In how many a pattern may fit a text, at most: count * (letters of the text + 1)^repeated."""

    count: float = 1.0
    repeated: int = 0

    def __mul__(self, other: "Ways") -> "Ways":
        """One after the other."""
        return Ways(self.count * other.count, self.repeated + other.repeated)

    def __or__(self, other: "Ways") -> "Ways":
        """One or the other."""
        return Ways(self.count + other.count, max(self.repeated, other.repeated))


def ways_of(pattern: str) -> Ways:
    """Those of a pattern that has its brackets in pairs."""
    groups = [[Ways()]]  # of each open group, those of each of its choices
    before = ""
    for token in _TOKEN.findall(pattern):
        found = Ways()
        if token == "(":
            groups.append([Ways()])
        elif token == "|":
            groups[-1].append(Ways())
        elif token == ")" and len(groups) > 1:
            found = reduce(or_, groups.pop())
        elif token in "*+{" and before not in "*+}":
            found = Ways(float("inf")) if before == ")" else Ways(1, 1)
        elif token == "?" and before not in "*+}":  # after one of these it asks for the least
            found = Ways(2)
        groups[-1][-1] *= found
        before = token
    return reduce(or_, groups[0])


@lru_cache(maxsize=1 << 14)  # a LoRA may have one for each of its modules
def _is_plain(pattern: str) -> bool:
    """Whether it is as the name of a module is, in which a dot stands for any letter."""
    return re.fullmatch(r"[\w.-]+", pattern) is not None


def _ends_with(name: str, plain: str) -> bool:
    """What the expression would find, in the time that a table of a thousand of them needs."""
    end = name[-len(plain) :]
    if end == plain:
        return True
    fitting = (a == b or (b == "." and a != "\n") for a, b in zip(end, plain, strict=False))
    return len(end) == len(plain) and end[0] == "." and all(fitting)


@lru_cache(maxsize=1 << 10)
def _compiled(pattern: str) -> tuple[re.Pattern[str], Ways]:
    if len(pattern) > _LONGEST:
        raise ValueError(f"it has {len(pattern)} letters")
    try:
        re.compile(pattern)  # by itself, so that its brackets are in pairs
        return re.compile(rf"(.*\.)?({pattern})"), ways_of(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(str(error)) from error
