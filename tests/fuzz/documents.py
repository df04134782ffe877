"""JSON that strangers write, changed at random: names twice, numbers that are none, deep nests."""

import json
from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

DEEP = 3000  # more than Python and the safetensors library nest


class Pairs(list):
    """An object of JSON with its names in order; one may be there twice."""


class Raw(str):
    """What stands in the text as it is, whether it is JSON or not."""


NUMBERS = (
    *(0, -1, 1, 2, 3, 255, 2**16, 2**31 - 1, 2**31, 2**40, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1),
    *(2**64, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308, 4.0, 1e15),
    *(Raw("NaN"), Raw("-Infinity"), Raw("1e999"), Raw("0x10"), Raw("01"), Raw("9" * 5000)),
)
TEXTS = (
    *(
        "",
        " ",
        "None",
        "null",
        "\0",
        "\x1b[2J\r\n\t",
        "\ud800",
        "\udfff\ud800",
        "\u202e\u2028",
        "ü😀",
    ),
    *("../../../etc/passwd", "/dev/zero", "..\\x.safetensors", "C:\\x", ".", "a/b", "a" * 3000),
    *("x.safetensors", "x.bin", "%s %d {0} {x}", "<img src=x onerror=alert(1)>", "$(id)", "=1+1"),
    *("(", "[", "(a+)+$", "a{99999999999}", "(?P<x", ".*.*.*.*.*.*x", "(" * 200, "\\", "{", "}"),
)
OTHERS = (
    *(
        None,
        True,
        False,
        [],
        Pairs(),
        [[]],
        [None],
        [0, 0],
        [2, 1],
        [-1, 8],
        [0, 2**63],
        [2**63, 0],
    ),
    *(
        Pairs([("", "")]),
        Raw("[" * DEEP),
        Raw("[" * DEEP + "]" * DEEP),
        Raw('{"a":' * DEEP),
        Raw(""),
    ),
)


def parsed(text: str) -> Any:
    """Of what is JSON.

    Raises:
        ValueError, RecursionError: it is none.
    """
    return json.loads(text, object_pairs_hook=Pairs)


def written(tree: Any) -> str:
    if isinstance(tree, Raw):
        return str(tree)
    if isinstance(tree, Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{written(value)}" for name, value in tree) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(written, tree)) + "]"
    return json.dumps(tree)


def mutated(tree: Any, random: Random, words: Sequence[str] = ()) -> Any:
    """Another tree; the one that is given may be changed.

    Args:
        words: names that mean something where this is read.
    """
    root = [tree]
    for _ in range(random.choice((1, 1, 2, 4))):
        places = list(_places(root))
        if not places:
            break
        holder, index = random.choice(places)
        random.choice(_CHANGES)(holder, index, places, random, words)
    return root[0] if root else Raw("")


def _places(tree: list[Any]) -> Iterator[tuple[list[Any], int]]:
    """Every value, as the list that holds it and its index there."""
    left: list[list[Any]] = [tree]
    while left:
        holder = left.pop()
        for index in range(len(holder)):
            yield holder, index
            value = _value(holder, index)
            if isinstance(value, list):
                left.append(value)


def _value(holder: list[Any], index: int) -> Any:
    return holder[index][1] if isinstance(holder, Pairs) else holder[index]


def _put(holder: list[Any], index: int, value: Any) -> None:
    value = _apart(value)
    holder[index] = (holder[index][0], value) if isinstance(holder, Pairs) else value


def _apart(value: Any) -> Any:
    """The same in lists of its own, so that nothing comes to lie in itself."""
    if isinstance(value, Pairs):
        return Pairs((name, _apart(inner)) for name, inner in value)
    return [_apart(inner) for inner in value] if isinstance(value, list) else value


def _exchange(holder, index, places, random, words) -> None:
    """Another value of the same kind, more often than of any other."""
    value = _value(holder, index)
    if isinstance(value, str) and random.random() < 0.5:
        inner = _inner(value)
        if inner is not None:
            _put(holder, index, written(mutated(inner, random, words)))
            return
    kinds = [NUMBERS, (*TEXTS, *words), OTHERS]
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18:
        kinds += [NUMBERS] * 4 + [(value + 1, value - 1, -value, float(value), str(value))] * 3
    elif isinstance(value, str):
        kinds += [(*TEXTS, *words)] * 4 + [(value + random.choice(TEXTS), value[:-1])]
    _put(holder, index, random.choice(random.choice(kinds)))


def _copy(holder, index, places, random, words) -> None:
    _put(holder, index, _value(*random.choice(places)))


def _drop(holder, index, places, random, words) -> None:
    del holder[index]


def _twice(holder, index, places, random, words) -> None:
    holder.insert(random.randrange(len(holder) + 1), holder[index])
    _put(holder, index, _value(holder, index))


def _rename(holder, index, places, random, words) -> None:
    if not isinstance(holder, Pairs):
        return _exchange(holder, index, places, random, words)
    names = [h[i][0] for h, i in places if isinstance(h, Pairs)]
    name = holder[index][0]
    new = random.choice((*TEXTS, *names, *words, *words, f"{name}x", name.upper(), name[1:]))
    holder[index] = (new, holder[index][1])
    return None


_CHANGES = (_exchange, _exchange, _exchange, _exchange, _copy, _drop, _twice, _rename, _rename)


def _inner(text: str) -> Any:
    """The JSON inside of a text; None where there is none."""
    if not text.startswith(("{", "[")) or len(text) > 20_000:
        return None
    try:
        return parsed(text)
    except (ValueError, RecursionError):
        return None
