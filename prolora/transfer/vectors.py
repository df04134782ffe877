"""Norms, biases and set weights: carried over where both models have a tensor of their shape."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from ..adapters import VectorPatch
from ..models.model import Model
from ..models.references import WeightRef
from ..pairing.alignment import Alignment
from ..pairing.module_pairs import why_without
from ..pairing.module_tree import as_linear
from ..pairing.target_locations import TargetLocation, closest_name, target_locations
from .report import ModuleReport
from .resolve import ResolvedLora, ResolvedVector, changed_by, row_name


def plan_vectors(
    lora: ResolvedLora, alignment: Alignment, target: Model
) -> tuple[tuple[VectorPatch, ...], tuple[ModuleReport, ...]]:
    """Takes each vector patch as it is, or leaves it out with a reason. Reads no weight.

    Returns:
        The patches by the target's names, and a row of the report for each of the file's.
    """
    resolved = {row_name(vector.patch): vector for vector in lora.vectors}
    carried: list[_Carried] = []
    rows: list[ModuleReport] = []
    for patch in lora.file.vector_patches:
        reason = lora.shadowed.get(row_name(patch), "")
        vector = resolved.get(row_name(patch))
        places: tuple[TargetLocation, ...] = ()
        if vector is not None:
            places = target_locations(patch.name, vector.module, lora.source, target, alignment)
            if not places:
                reason = reason or why_without(patch.name, vector.module, target, alignment)
        for place in places or (None,):
            row = _row(patch, vector, lora.source, target, place, reason)
            rows.append(row)
            if row.status == "copied" and place is not None:
                changed = changed_by(patch, place.place, target)
                carried.append(_Carried(patch, place, changed, row.target_shape))
    return tuple(_joined(carried, target)), tuple(rows)


@dataclass(frozen=True)
class _Carried:
    """A patch, its place in the target, what it changes there, and the shape of that."""

    patch: VectorPatch
    place: TargetLocation
    changed: WeightRef | None
    shape: tuple[int, ...]

    @property
    def renamed(self) -> VectorPatch:
        tensor = self.patch.tensor.reshape(self.shape)
        return replace(self.patch, name=self.place.name, tensor=tensor)


def _joined(carried: Sequence[_Carried], target: Model) -> Iterator[VectorPatch]:
    """The patches by the target's names; biases of parts of one weight as one bias of the whole.

    No loader reads the bias of a part. Rows without one get zeros, which change nothing.
    """
    parts: dict[str, list[_Carried]] = defaultdict(list)
    for one in carried:
        if one.patch.of_bias and _wholes(one.changed, one.place, target):
            parts[one.place.place.key].append(one)
        else:
            yield one.renamed
    for key, same in parts.items():
        patch, whole = same[0].patch, changed_by(same[0].patch, WeightRef(key), target)
        assert whole is not None
        tensor = torch.zeros(target.shape(whole), dtype=patch.tensor.dtype)
        for one in same:
            assert one.changed is not None
            assert one.changed.part is not None
            tensor.narrow(0, one.changed.part.start, one.changed.part.length).copy_(
                one.patch.tensor
            )
        name = closest_name(patch.name, _wholes(same[0].changed, same[0].place, target))
        yield replace(patch, name=name, tensor=tensor)


def _wholes(changed: WeightRef | None, place: TargetLocation, target: Model) -> list[str]:
    """The names of the weight whose bias has a part changed; none for a whole bias.

    ComfyUI finds a bias by a weight that is called `.weight`.
    """
    if changed is None or changed.part is None or not place.place.key.endswith(".weight"):
        return []
    named = target.names_of(place.place.key)
    return [name for name, ref in named if ref.part is None and not ref.halves_swapped]


def _row(
    patch: VectorPatch,
    vector: ResolvedVector | None,
    source: Model,
    target: Model,
    place: TargetLocation | None,
    known: str,
) -> ModuleReport:
    """A row; `known` is a reason that was found before."""
    ours = vector.changed if vector is not None else None
    theirs = changed_by(patch, place.place, target) if place is not None else None
    row = ModuleReport(
        name=row_name(patch),
        status="skipped",
        reason=known
        or _misfit(patch, ours, source, "source", vector is not None)
        or _misfit(patch, theirs, target, "target", place is not None),
        family=patch.kind,
        source_key=str(ours or ""),
        target_key=str(theirs or ""),
        source_shape=vector.shape if vector is not None else (),
        target_shape=target.shape(theirs) if theirs else (),
    )
    if place is not None and not row.reason and (place.rows is not None or not place.name):
        row = replace(row, reason="one model keeps fused what the other has apart")
    if row.reason:
        return row
    reason = f"a {patch.kind} has no subspaces to project"
    lost = patch.of_bias and theirs is not None and theirs.part is not None
    if lost and place is not None and not _wholes(theirs, place, target):
        reason += "; ComfyUI reads none for a part of a weight that it keeps fused"
    return replace(row, status="copied", reason=reason)


def _misfit(
    patch: VectorPatch, ref: WeightRef | None, model: Model, side: str, has_module: bool
) -> str:
    if ref is None:
        return f"{'no bias' if has_module else 'not'} in the {side} {model.name}"
    if as_linear(model.shape(ref)) != as_linear(tuple(patch.tensor.shape)):
        return f"a {patch.kind} of another shape than in the {side} {model.name}"
    return ""
