"""Norms, biases and set weights: carried over where both models have a tensor of their shape."""

from dataclasses import replace

from ..adapters import VectorPatch
from ..models.model import Model
from ..models.references import WeightRef
from ..pairing.alignment import Alignment
from ..pairing.module_pairs import why_without
from ..pairing.target_locations import TargetLocation, target_locations
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
    carried: list[VectorPatch] = []
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
                carried.append(patch.renamed(place.name))
    return tuple(carried), tuple(rows)


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
    if patch.of_bias and theirs is not None and theirs.part is not None:
        reason += "; ComfyUI reads none for a part of a weight that it keeps fused"
    return replace(row, status="copied", reason=reason)


def _misfit(
    patch: VectorPatch, ref: WeightRef | None, model: Model, side: str, has_module: bool
) -> str:
    if ref is None:
        return f"{'no bias' if has_module else 'not'} in the {side} {model.name}"
    if model.shape(ref) != tuple(patch.tensor.shape):
        return f"a {patch.kind} of another shape than in the {side} {model.name}"
    return ""
