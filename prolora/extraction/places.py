"""What of two models is compared: every weight, with the name that a LoRA file has for it."""

from collections import Counter
from collections.abc import Iterator, Set
from dataclasses import dataclass, replace

from ..errors import ProLoRAError
from ..models.model import Model
from ..models.module_names import is_text_encoder
from ..models.quantised import is_beside_a_weight
from ..models.references import WeightRef
from ..pairing.module_pairs import by
from ..pairing.module_tree import Node, module_tree, other_widths

_ENOUGH = 0.5  # of the base's matrices; a tuned model that has fewer of them is another one


@dataclass(frozen=True)
class Place:
    """A weight of the base, a part of it, or a bias.

    Attributes:
        ref: where it lies in the base, and in the tuned model too.
        name: the module's name; "" where a LoRA file has none for it.
        role: what holds its difference: "lora", "diff" or "diff_b"; see adapters/difference.py.
        reason: why it is left out, if it differs; "" if it is not.
        is_in_both: whether both models have it, in one shape.
    """

    ref: WeightRef
    name: str
    role: str
    reason: str = ""
    is_in_both: bool = True


def places_of(base: Model, tuned: Model) -> list[Place]:
    """Every weight and bias of both models, in the order of the base.

    Text encoders count only where both models have one: see lone_text_encoder.

    Raises:
        ProLoRAError: the two models differ in depth or in width, or have little in common.
    """
    _refuse_others(base, tuned)
    alone: set[str] = set()
    if lone_text_encoder(base, tuned):
        alone = {_root(key) for model in (base, tuned) for key in _text_encoder(model)}
    known = set(base.weights)
    return [
        *(
            _checked(place, base, tuned)
            for key in _keys(base, alone)
            for place in _places(key, base)
        ),
        *(
            Place(WeightRef(key), "", "diff", f"not in the base {base.name}", is_in_both=False)
            for key in _keys(tuned, alone)
            if key not in known
        ),
    ]


def lone_text_encoder(base: Model, tuned: Model) -> str:
    """A note where only one of the two models comes with a text encoder; else ""."""
    has, lacks = sorted((base, tuned), key=lambda model: not _text_encoder(model))
    if not _text_encoder(has) or _text_encoder(lacks):
        return ""
    return f"{lacks.name} comes without a text encoder, so that of {has.name} was not compared"


def _keys(model: Model, without: Set[str]) -> Iterator[str]:
    """The weights of the parts that LoRA files name: not those of a VAE, nor of a schedule.

    Args:
        without: parts that do not count.
    """
    roots = {_root(ref.key) for ref in model.key_map.values()} - without
    return (key for key in model.weights if _root(key) in roots and not is_beside_a_weight(key))


def _root(key: str) -> str:
    return key.partition(".")[0]


def _text_encoder(model: Model) -> set[str]:
    return {ref.key for name, ref in model.key_map.items() if is_text_encoder(name)}


def _places(key: str, base: Model) -> Iterator[Place]:
    """The weight as a whole where it has a name; else the parts that have one."""
    shape = base.weights.shape(key)
    module = f"{key.removesuffix('bias')}weight"
    if key.endswith(".bias") and _whole(module, base):
        yield Place(WeightRef(key), _whole(module, base), "diff_b")
        return
    role = "lora" if len(shape) >= 2 and key.endswith("weight") else "diff"
    name, parts = _whole(key, base), _parts(key, base)
    if name or not parts:
        reason = "" if name else "no name in a LoRA file means it"
        reason = reason if shape else "a single number, which no LoRA file holds"
        yield Place(WeightRef(key), name, role, reason)
        return
    yield from (Place(ref, part, role) for ref, part in parts.items())


def _whole(key: str, model: Model) -> str:
    """A name of a whole weight as it is stored; "" for none."""
    return next((name for name, ref in model.names_of(key) if ref == WeightRef(key)), "")


def _parts(key: str, model: Model) -> dict[WeightRef, str]:
    """The named parts that cover all rows of a weight, one after the other; {} if none do."""
    named = [
        (ref.part, ref, name)
        for name, ref in model.names_of(key)
        if ref.part is not None and ref.part.dim == 0 and not ref.halves_swapped
    ]
    found: dict[WeightRef, str] = {}
    end = 0
    for part, ref, name in sorted(named, key=lambda one: (one[0].start, -one[0].length)):
        if part.start == end:
            found[ref], end = name, end + part.length
    return found if named and end == model.weights.shape(key)[0] else {}


def _checked(place: Place, base: Model, tuned: Model) -> Place:
    key = place.ref.key
    if key not in tuned.weights:
        return replace(place, reason=f"not in {tuned.name}", is_in_both=False)
    ours, theirs = base.weights.shape(key), tuned.weights.shape(key)
    if ours != theirs:
        reason = f"{by(ours)} in {base.name}, {by(theirs)} in {tuned.name}"
        return replace(place, reason=reason, is_in_both=False)
    return place


def _refuse_others(base: Model, tuned: Model) -> None:
    both = f"{base.name} ({base.architecture}) and {tuned.name} ({tuned.architecture})"
    trees = module_tree(base), module_tree(tuned)
    counts = [Counter(map(_stage, blocks_in(tree))) for tree in trees]
    for stage in counts[0].keys() & counts[1].keys():
        here, there = (count[stage] for count in counts)
        if here != there:
            raise ProLoRAError(
                f"{both} differ in depth: {stage} has {here} blocks in the one, {there} in the "
                "other. A LoRA is the difference of two models that are built alike. To bring a "
                "LoRA from the one to the other, use ProLoRA Transfer."
            )
    widths = other_widths(*trees, sides=("the base", "the tuned model"))
    if widths:
        raise ProLoRAError(
            f"{both} differ in width ({widths}). A LoRA is the difference of two models that are "
            "built alike. Choose two models of one size."
        )
    matrices = [node.key for node in trees[0].matrices()]
    common = sum(key in tuned.weights for key in matrices)
    if common < _ENOUGH * len(matrices) or not matrices:
        raise ProLoRAError(
            f"{both} have {common} of {len(matrices)} modules in common. Choose a base, and a "
            "model that was trained, distilled or merged from it."
        )


def blocks_in(node: Node) -> Iterator[str]:
    """The paths of all blocks in a tree, those within blocks included."""
    for child in node.children.values():
        if child.path.rpartition(".")[2].isdecimal() and child.is_block:
            yield child.path
        yield from blocks_in(child)


def _stage(block: str) -> str:
    return block.rpartition(".")[0]
