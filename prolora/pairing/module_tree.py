"""A model's modules as the tree that their names make, and what in it is a list of blocks.

No model is known here: `transformer_blocks.0`, `.1`, `.2` are a list because their names are
numbers. A *block* is an entry of a list with two weights or more under it; a *stage* a list of
blocks. An entry with one weight, as the `0` of `to_out.0`, is a place in a sequence.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..models.model import UNET_PREFIXES, Model

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)")


@dataclass
class Node:
    """A module, with all that lies in it.

    Attributes:
        path: its name in the model, without what the diffusion model's names begin with.
        key, shape: of its own weight; "" and () where it has none.
    """

    path: str = ""
    key: str = ""
    shape: tuple[int, ...] = ()
    children: "dict[str, Node]" = field(default_factory=dict)

    @property
    def entries(self) -> "dict[int, Node]":
        """The children that are numbered, in order."""
        numbered = {int(name): node for name, node in self.children.items() if name.isdecimal()}
        return dict(sorted(numbered.items()))

    @property
    def named(self) -> "dict[str, Node]":
        """The other children."""
        return {name: node for name, node in self.children.items() if not name.isdecimal()}

    @property
    def is_block(self) -> bool:
        """For an entry of a list."""
        return sum(1 for _ in self.matrices()) >= 2

    def walk(self) -> "Iterator[Node]":
        """All that have a weight, this one included."""
        if self.key:
            yield self
        for child in self.children.values():
            yield from child.walk()

    def matrices(self) -> "Iterator[Node]":
        """All with a weight that has a left and a right side."""
        return (node for node in self.walk() if len(node.shape) >= 2)

    def names(self) -> dict[str, tuple[int, ...]]:
        """Path within this module -> shape, of every matrix in it."""
        return {node.path.removeprefix(self.path): node.shape for node in self.matrices()}

    def kinds(self) -> dict[str, set[tuple[int, ...]]]:
        """Path within this module, `*` for every number -> the shapes of the matrices there."""
        found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
        for name, shape in self.names().items():
            found[_NUMBER.sub("*", name)].add(as_linear(shape))
        return dict(found)

    def inside(self) -> set[str]:
        """Paths within this module of all weights, and of the named modules that they are in."""
        paths = {node.path.removeprefix(self.path) for node in self.walk()}
        parents = {path.rpartition(".")[0] for path in paths} - {""}
        return paths | {path for path in parents if not path.rpartition(".")[2].isdecimal()}

    def at(self, path: str) -> "Node | None":
        """The module of that path below this one."""
        node: Node | None = self
        for name in path.split("."):
            node = node.children.get(name) if node is not None else None
        return node


def module_tree(model: Model) -> Node:
    """The tree of all weights that a LoRA can name."""
    root = Node()
    for key in dict.fromkeys(ref.key for ref in model.key_map.values()):
        node = root
        path = path_of(model, key)
        for name in path.split("."):
            below = f"{node.path}.{name}" if node.path else name
            node = node.children.setdefault(name, Node(below))
        node.key, node.shape = key, model.weights.shape(key)
    return root


def as_linear(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A 1x1 convolution is a linear layer: SD1.x has the one where SD2.x has the other."""
    return shape[:2] if set(shape[2:]) == {1} else shape


def other_widths(source: Node, target: Node) -> str:
    """An example of the widths that two models differ in, for people; "" if they do not.

    A single kind of module makes no other width: an inpainting model has more inputs, and no more.
    """
    ours, theirs = source.kinds(), target.kinds()
    differ = [kind for kind in ours if ours[kind].isdisjoint(theirs.get(kind, ours[kind]))]
    if len(differ) < 2:
        return ""
    clear = {kind: ("*" not in kind, len(min(ours[kind])), len(ours[kind])) for kind in differ}
    kind = min(differ, key=lambda kind: (clear[kind], min(ours[kind])))
    mine, yours = (" x ".join(map(str, min(kinds[kind]))) for kinds in (ours, theirs))
    return f"{kind} is {mine} in the source, {yours} in the target"


def path_of(model: Model, key: str) -> str:
    """A weight's module, by the name that both models of a transfer have for it."""
    prefix = next((prefix for prefix in UNET_PREFIXES if key.startswith(prefix)), "")
    return model.paths.get(key) or key.removeprefix(prefix).removesuffix(".weight")
