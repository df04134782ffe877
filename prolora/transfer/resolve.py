"""First stage: which weights of the source a LoRA changes. Only here is the source asked a name."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..adapters import Adapter, AdapterFile, Part, VectorPatch
from ..errors import ProLoRAError
from ..models.architectures import UNKNOWN, guess_architecture, guess_architectures, one_of
from ..models.model import Model
from ..models.references import WeightRef
from ..pairing.module_pairs import ResolvedAdapter, as_matrix, by, padded
from ..pairing.module_tree import path_of
from ..pairing.target_locations import closest_name
from ..progress import Progress, silent
from ..provenance.doubts import Doubt, doubts_of_source
from ..provenance.header import base_said


@dataclass(frozen=True)
class ResolvedVector:
    """A vector patch, and where it belongs.

    Attributes:
        module: the weight of its module.
        changed: what it changes, the weight or its bias; None where the module has no bias.
        shape: of what it changes; () for nothing.
    """

    patch: VectorPatch
    module: WeightRef
    changed: WeightRef | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class ResolvedLora:
    """A LoRA, and the checkpoint it was trained on; what travels along a PROLORA_SOURCE link.

    Attributes:
        adapters, vectors: what was found in the source, in the order of the file.
        shadowed: name in the report -> why, for what another part of the file takes the place of.
        unresolved: the modules' names that the source does not know, in the order of the file.
        doubts: what the file's header says against the source.
    """

    file: AdapterFile
    source: Model
    adapters: tuple[ResolvedAdapter, ...]
    vectors: tuple[ResolvedVector, ...]
    shadowed: Mapping[str, str]
    unresolved: tuple[str, ...]
    doubts: tuple[Doubt, ...] = ()

    @property
    def weights(self) -> frozenset[str]:
        """The keys of all weights that it changes."""
        found = (*(part.ref.key for part in self.adapters), *(v.module.key for v in self.vectors))
        return frozenset(found)


def resolve(
    file: AdapterFile,
    source: Model,
    progress: Progress = silent,
) -> ResolvedLora:
    """Finds every module of a LoRA in the checkpoint that it was trained on.

    Args:
        progress: while the source's file is read for its hash; see provenance/doubts.py for when.

    Raises:
        ProLoRAError: the LoRA was not trained on this checkpoint, as far as shapes and names tell:
            no module of it is there, or one has another shape there.
        Exception: whatever `progress` raises.
    """
    found = {name: source.resolve(name) for name in file.module_names}
    places = {name: place for name, place in found.items() if place is not None}
    if not places:
        _refuse_another(file, source)
    adapters = []
    for adapter in file.adapters:
        place = places.get(adapter.name)
        if place is not None:
            shape = padded(adapter, source.shape(place))
            _check_shape(adapter, shape, file, source)
            adapters.append(ResolvedAdapter(adapter, place, shape))
    vectors = []
    for patch in file.vector_patches:
        place = places.get(patch.name)
        if place is not None:
            changed = changed_by(patch, place, source)
            shape = source.shape(changed) if changed is not None else ()
            vectors.append(ResolvedVector(patch, place, changed, shape))
    return ResolvedLora(
        file=file,
        source=source,
        adapters=tuple(adapters),
        vectors=tuple(vectors),
        shadowed=_shadowed(file, places, source),
        unresolved=tuple(name for name, place in found.items() if place is None),
        doubts=tuple(doubts_of_source(file.metadata, file.config, source, progress)),
    )


def changed_by(patch: VectorPatch, place: WeightRef, model: Model) -> WeightRef | None:
    """What of a model a patch changes: the module's weight, or its bias; None without a bias."""
    if not patch.of_bias:
        return place
    if not place.key.endswith("weight"):  # the name is that of a lone parameter
        return None
    key = f"{place.key.removesuffix('weight')}bias"
    # A bias has its weight's outputs only: a slice of the inputs leaves it whole.
    part = place.part if place.part is not None and place.part.dim == 0 else None
    return replace(place, key=key, part=part) if key in model.weights else None


def row_name(part: Part) -> str:
    """What the report calls a part of a file; no other part of it has that name."""
    return f"{part.name}.{part.role}" if isinstance(part, VectorPatch) else part.name


def _shadowed(file: AdapterFile, places: Mapping[str, WeightRef], source: Model) -> dict[str, str]:
    """What changes a weight or bias that another part of the file changes too, and the reason.

    ComfyUI goes through its key map and keeps the last of them; a name that is not in it, it does
    not load at all. Parts of one weight that overlap are different places: it adds both.
    """
    order = {name: position for position, name in enumerate(source.key_map)}
    parts: dict[tuple[WeightRef, bool], list[Part]] = defaultdict(list)
    for part in file.contents:
        if part.name in places:
            of_bias = isinstance(part, VectorPatch) and part.of_bias
            parts[places[part.name], of_bias].append(part)
    reasons: dict[str, str] = {}
    for same in parts.values():
        last = max(same, key=lambda part: order.get(part.name, -1))
        reason = f"means the same weight as {last.name}, which ComfyUI loads in its place"
        reasons |= {row_name(part): reason for part in same if part is not last}
    return reasons


def _refuse_another(file: AdapterFile, source: Model) -> None:
    raise ProLoRAError(
        f"The LoRA {file.name} {_names_of(file)}, and none of its {len(file.module_names)} modules "
        f"(the first is {file.module_names[0]}) is in the source checkpoint {source.name} "
        f"({source.architecture}). {_advice(file, source)}{source.hint and f' {source.hint}'}"
    )


def _check_shape(
    adapter: Adapter, shape: tuple[int, ...], file: AdapterFile, source: Model
) -> None:
    if len(shape) < 2:
        return
    matrix = as_matrix(shape)
    sides = zip(adapter.delta_shape, matrix, strict=True)
    if not all(wanted in (None, side) for wanted, side in sides):
        raise ProLoRAError(
            f"The LoRA {file.name} does not fit the source checkpoint {source.name} "
            f"({source.architecture}): its module {adapter.name} changes a weight of "
            f"{by(adapter.delta_shape)}, and there the weight is {by(matrix)}. "
            f"This LoRA {_names_of(file)}. Choose the checkpoint it was trained on."
        )


def _advice(file: AdapterFile, source: Model) -> str:
    """What to do about names that the source does not know; it says what was checked, no more."""
    of_source = guess_architectures(path_of(source, key) for key in source.weights)
    of_both = [name for name in guess_architectures(file.module_names) if name in of_source]
    base = base_said(file.metadata, file.config)
    if not of_both:
        named = f"; its file says that this is {base}" if base else ""
        return f"Choose the checkpoint it was trained on{named}."
    example = closest_name(file.module_names[0], source.key_map)
    return (
        f"Both fit {one_of(of_both)}: if this is the checkpoint it was trained on, use a copy of "
        f"the LoRA with names such as {example}, which are known here."
    )


def _names_of(file: AdapterFile) -> str:
    """What the names of its modules tell of a LoRA; several architectures share some."""
    guess = guess_architecture(file.module_names)
    return f"has the names of {'no known architecture' if guess == UNKNOWN else guess}"
