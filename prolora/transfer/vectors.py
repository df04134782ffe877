"""Norms, biases and set weights: carried over where both models have a tensor of their shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..adapters import VectorPatch
from ..models.model import Model
from ..models.references import WeightRef
from ..pairing.alignment import Alignment
from ..pairing.module_pairs import identity, why_without
from ..pairing.target_locations import TargetLocation, target_locations
from .report import ModuleReport


@dataclass(frozen=True)
class CarriedPatches:
    """The differences that the target takes, and a row for each of all."""

    vector_patches: tuple[VectorPatch, ...]
    rows: tuple[ModuleReport, ...]


def carry_vector_patches(
    differences: Sequence[VectorPatch],
    source: Model,
    target: Model,
    alignment: Alignment,
    replaced: Mapping[tuple[str, str], str],
) -> CarriedPatches:
    """Takes each difference as it is, or leaves it out with a reason. Reads no weight.

    Args:
        replaced: see matching.replaced_parts.
    """
    carried: list[VectorPatch] = []
    rows: list[ModuleReport] = []
    for difference in differences:
        reason = replaced.get(identity(difference), "")
        places = target_locations(difference.name, source, target, alignment)
        ref = source.resolve(difference.name)
        if ref is not None and not places:
            reason = reason or why_without(difference.name, ref, target, alignment)
        for place in places or [None]:
            row = _row(difference, source, target, place, reason)
            rows.append(row)
            if row.status == "copied" and place is not None:
                carried.append(difference.renamed(place.name))
    return CarriedPatches(tuple(carried), tuple(rows))


def _row(
    difference: VectorPatch,
    source: Model,
    target: Model,
    place: TargetLocation | None,
    known: str,
) -> ModuleReport:
    """A row; `known` is a reason that was found before."""
    ref = source.resolve(difference.name)
    ours = _changed(difference, ref, source)
    theirs = _changed(difference, place.place if place is not None else None, target)
    row = ModuleReport(
        name=f"{difference.name}.{difference.role}",
        status="skipped",
        reason=known
        or _misfit(difference, ours, source, "source", ref is not None)
        or _misfit(difference, theirs, target, "target", place is not None),
        family=difference.kind,
        source_key=str(ours or ""),
        target_key=str(theirs or ""),
        source_shape=source.shape(ours) if ours else (),
        target_shape=target.shape(theirs) if theirs else (),
    )
    if place is not None and not row.reason and (place.rows is not None or not place.name):
        row = replace(row, reason="one model keeps fused what the other has apart")
    if row.reason:
        return row
    reason = f"a {difference.kind} has no subspaces to project"
    if difference.of_bias and theirs is not None and theirs.part is not None:
        reason += "; ComfyUI reads none for a part of a weight that it keeps fused"
    return replace(row, status="copied", reason=reason)


def _misfit(
    difference: VectorPatch, ref: WeightRef | None, model: Model, side: str, has_module: bool
) -> str:
    if ref is None:
        return f"{'no bias' if has_module else 'not'} in the {side} {model.name}"
    if model.shape(ref) != tuple(difference.tensor.shape):
        return f"a {difference.kind} of another shape than in the {side} {model.name}"
    return ""


def _changed(difference: VectorPatch, ref: WeightRef | None, model: Model) -> WeightRef | None:
    """What of a model a difference changes: the module's weight, or its bias."""
    if ref is None or not difference.of_bias:
        return ref
    if not ref.key.endswith("weight"):  # the name is that of a lone parameter
        return None
    key = f"{ref.key.removesuffix('weight')}bias"
    # A bias has its weight's outputs only: a slice of the inputs leaves it whole.
    part = ref.part if ref.part is not None and ref.part.dim == 0 else None
    return replace(ref, key=key, part=part) if key in model.weights else None
