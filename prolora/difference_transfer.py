"""Norms, biases and set weights: carried over where both models have a tensor of their shape."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from .adapters import Difference
from .matching import identity
from .report import ModuleReport
from .weights import Model, WeightRef


@dataclass(frozen=True)
class CarriedDifferences:
    """The differences that the target takes, and a row for each of all."""

    differences: tuple[Difference, ...]
    rows: tuple[ModuleReport, ...]


def carry_differences(
    differences: Sequence[Difference],
    source: Model,
    target: Model,
    replaced: Mapping[tuple[str, str], str],
) -> CarriedDifferences:
    """Takes each difference as it is, or leaves it out with a reason. Reads no weight.

    Args:
        replaced: see matching.replaced_parts.
    """
    rows = tuple(
        _row(difference, source, target, replaced.get(identity(difference), ""))
        for difference in differences
    )
    pairs = zip(differences, rows, strict=True)
    return CarriedDifferences(tuple(d for d, row in pairs if row.status == "copied"), rows)


def _row(difference: Difference, source: Model, target: Model, replaced: str) -> ModuleReport:
    source_ref, target_ref = _changed(difference, source), _changed(difference, target)
    row = ModuleReport(
        name=f"{difference.name}.{difference.role}",
        status="skipped",
        reason=replaced
        or _misfit(difference, source_ref, source, "source")
        or _misfit(difference, target_ref, target, "target"),
        family=difference.kind,
        source_key=str(source_ref or ""),
        target_key=str(target_ref or ""),
        source_shape=source.shape(source_ref) if source_ref else (),
        target_shape=target.shape(target_ref) if target_ref else (),
    )
    if row.reason:
        return row
    reason = f"a {difference.kind} has no subspaces to project"
    if difference.of_bias and target_ref is not None and target_ref.part is not None:
        reason += "; ComfyUI reads none for a part of a weight that it keeps fused"
    return replace(row, status="copied", reason=reason)


def _misfit(difference: Difference, ref: WeightRef | None, model: Model, place: str) -> str:
    if ref is None:
        what = "no bias" if model.find(difference.name) else "not"
        return f"{what} in the {place} {model.name}"
    if model.shape(ref) != tuple(difference.tensor.shape):
        return f"a {difference.kind} of another shape than in the {place} {model.name}"
    return ""


def _changed(difference: Difference, model: Model) -> WeightRef | None:
    """What of a model a difference changes: the module's weight, or its bias."""
    ref = model.find(difference.name)
    if ref is None or not difference.of_bias:
        return ref
    if not ref.key.endswith("weight"):  # the name is that of a lone parameter
        return None
    key = f"{ref.key.removesuffix('weight')}bias"
    # A bias has its weight's outputs only: a slice of the inputs leaves it whole.
    part = ref.part if ref.part is not None and ref.part.dim == 0 else None
    return replace(ref, key=key, part=part) if key in model.weights else None
