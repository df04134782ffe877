"""A model's modules as a tree, built from their names.

No architecture is listed here: `transformer_blocks.0`, `.1`, `.2` are a list because their names
are numbers. A *block* is an entry of a list with at least two matrices under it; a *stage* is a
list of blocks. An entry with one matrix, such as the `0` of `to_out.0`, is a place in a sequence.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from ..models.model import UNET, Model

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|^\d+(?=\.|$)")


@dataclass
class Node:
    """A module and its submodules.

    Attributes:
        path: its name in the model, without the prefix of the diffusion model.
        key, shape: of its own weight; "" and () where it has none.
        children: name -> submodule.
    """

    path: str = ""
    key: str = ""
    shape: tuple[int, ...] = ()
    children: "dict[str, Node]" = field(default_factory=dict)

    @property
    def entries(self) -> "dict[int, Node]":
        """The submodules whose names are numbers, in ascending order."""
        numbered = {int(name): node for name, node in self.children.items() if name.isdecimal()}
        return dict(sorted(numbered.items()))

    @property
    def named(self) -> "dict[str, Node]":
        """The other submodules."""
        return {name: node for name, node in self.children.items() if not name.isdecimal()}

    @property
    def is_block(self) -> bool:
        """Whether an entry of a list is a block."""
        return sum(1 for _ in self.matrices()) >= 2

    def walk(self) -> "Iterator[Node]":
        """All modules in it that have a weight, itself included."""
        if self.key:
            yield self
        for child in self.children.values():
            yield from child.walk()

    def matrices(self) -> "Iterator[Node]":
        """All modules in it whose weight has two dimensions or more."""
        return (node for node in self.walk() if len(node.shape) >= 2)

    def matrix_shapes(self) -> dict[str, tuple[int, ...]]:
        """Path within this module -> shape, for every matrix in it."""
        return {node.path.removeprefix(self.path): node.shape for node in self.matrices()}

    def shapes_by_kind(self) -> dict[str, set[tuple[int, ...]]]:
        """Kind -> the shapes of its matrices.

        A kind is a path within this module with `*` for every number.
        """
        found: dict[str, set[tuple[int, ...]]] = defaultdict(set)
        for name, shape in self.matrix_shapes().items():
            found[_NUMBER.sub("*", name)].add(as_linear(shape))
        return dict(found)

    def inside(self) -> set[str]:
        """The paths within this module of all weights, and of the named modules around them."""
        paths = {node.path.removeprefix(self.path) for node in self.walk()}
        parents = {path.rpartition(".")[0] for path in paths} - {""}
        return paths | {path for path in parents if not path.rpartition(".")[2].isdecimal()}

    def at(self, path: str) -> "Node | None":
        """The module at a path below this one; None where there is none."""
        node: Node | None = self
        for name in path.split("."):
            node = node.children.get(name) if node is not None else None
        return node


def module_tree(model: Model) -> Node:
    """The tree of all modules that a LoRA can name; no weight is read."""
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
    """The shape with a 1x1 convolution as a linear layer: out x in x 1 x 1 becomes out x in.

    SD1.x has the one where SD2.x has the other.
    """
    return shape[:2] if set(shape[2:]) == {1} else shape


def other_widths(
    source: Node, target: Node, sides: tuple[str, str] = ("the source", "the target")
) -> str:
    """A sentence that shows how the widths of two models differ; "" if they do not.

    One kind of module with another shape does not count: an inpainting model differs from its base
    in the number of inputs alone.

    Args:
        sides: what to call the two models.
    """
    ours, theirs = source.shapes_by_kind(), target.shapes_by_kind()
    differ = [kind for kind in ours if ours[kind].isdisjoint(theirs.get(kind, ours[kind]))]
    if len(differ) < 2:
        return ""
    # The clearest example: in a block, a linear layer, of one shape in all blocks.
    unclear = {kind: ("*" not in kind, len(min(ours[kind])), len(ours[kind])) for kind in differ}
    kind = min(differ, key=lambda kind: (unclear[kind], min(ours[kind])))
    shapes = [" x ".join(map(str, min(kinds[kind]))) for kinds in (ours, theirs)]
    return f"{kind} is {shapes[0]} in {sides[0]}, {shapes[1]} in {sides[1]}"


def path_of(model: Model, key: str) -> str:
    """A weight's module, by the name that both models of a transfer have for it."""
    return key.removeprefix(UNET).removesuffix(".weight")
