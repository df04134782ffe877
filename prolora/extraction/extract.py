"""The job: the difference of two models, as a LoRA for the first. Two weights at a time."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from .._version import __version__
from ..adapters import Adapter, Part, VectorPatch
from ..adapters.accelerators import ACCELERATOR_KEY, accelerator_of
from ..adapters.lora import made_lora
from ..algebra.kept import outside_heap
from ..algebra.precision import full_float32
from ..algebra.updates import DenseUpdate, LowRankUpdate
from ..errors import ProLoRAError
from ..models.model import Model
from ..pairing.module_tree import module_tree
from ..progress import Progress, silent
from ..threads import Limits, all_in_threads
from ..transfer.report import Measures, ModuleReport, Report
from .places import Place, blocks_in, lone_text_encoder, places_of
from .settings import ExtractionSettings

IDENTICAL = "identical in both"
ROUNDING = "the difference is rounding to another precision"
# Types that weights are stored in; what rounding to one of them explains was not trained.
_ROUNDED = (torch.float16, torch.bfloat16)
# Of a place at work: both weights and their difference in float32, that in float64, and its Gram
# matrix with the eigenvectors, which are as large where it is square.
_BYTES_PER_ELEMENT = 48


@dataclass(frozen=True)
class Extraction:
    """What makes the tuned model of the base, as far as the rank goes.

    Attributes:
        adapters: LoRAs by the base's names.
        vector_patches: what has no rank, whole: norms, biases, lone parameters.
        report: a row for every weight; its source is the tuned model, its target the base.
        energy_kept: by all LoRAs together, of the differences that they are of; 1 where there is
            no LoRA.
        accelerator: the kind of accelerator that the tuned model is by its name, or "".
    """

    adapters: tuple[Adapter, ...]
    vector_patches: tuple[VectorPatch, ...]
    report: Report
    energy_kept: float
    accelerator: str = ""

    file = None  # it is made from models alone

    @property
    def contents(self) -> tuple[Part, ...]:
        """What the file of this result holds; see lora_state_dict."""
        return (*self.adapters, *self.vector_patches)

    def metadata(self) -> dict[str, str]:
        """What a file of this result says about itself, for a safetensors header."""
        report = self.report
        return {
            "prolora_version": __version__,
            "prolora_base": report.target,
            "prolora_tuned": report.source,
            **{f"prolora_{name}": value for name, value in report.settings.items()},
            **({ACCELERATOR_KEY: self.accelerator} if self.accelerator else {}),
            "prolora_modules_extracted": str(report.transferred),
            "prolora_modules_skipped": str(report.count("skipped")),
        }


@dataclass(frozen=True)
class _Taken:
    """A place, what a file holds of it (None for nothing), and ||difference||^2."""

    row: ModuleReport
    part: Part | None = None
    energy: float = 0.0


@full_float32()
@torch.no_grad()
def extract_difference(
    base: Model,
    tuned: Model,
    settings: ExtractionSettings | None = None,
    progress: Progress = silent,
) -> Extraction:
    """The difference of two models as a LoRA for the base: base + LoRA is the tuned model.

    Every module has the best LoRA of its rank (Eckart-Young), in float64; vectors are taken whole.
    Two weights are in memory at a time for each thread at work, and the LoRA. Neither model is
    changed.

    Raises:
        ProLoRAError: the two models are not built alike, or nothing differs, or a weight cannot be
            read, see Model.weight.
        Exception: whatever `progress` raises; that is how a user cancels.
    """
    settings = settings or ExtractionSettings()
    places = places_of(base, tuned)

    def work(place: Place) -> _Taken:
        return _taken(place, base, tuned, settings)

    def size(place: Place) -> int:
        return _BYTES_PER_ELEMENT * math.prod(base.shape(place.ref)) if place.is_in_both else 0

    def name_of(place: Place) -> str:
        return place.name or place.ref.key

    limits = Limits.on(settings.device, size, settings.workers)
    taken = all_in_threads(places, work, limits, progress, name_of)
    return _assembled(taken, base, tuned, settings)


def _assembled(
    taken: Sequence[_Taken], base: Model, tuned: Model, settings: ExtractionSettings
) -> Extraction:
    parts = [one.part for one in taken if one.part is not None]
    if not parts:
        _refuse_alike(taken, base, tuned)
    cut = [one for one in taken if one.part is not None and one.row.energy_kept is not None]
    energy = sum(one.energy for one in cut)
    kept = sum(one.energy * (one.row.energy_kept or 0.0) for one in cut)
    note = lone_text_encoder(base, tuned)
    vectors = tuple(part for part in parts if isinstance(part, VectorPatch))
    return Extraction(
        adapters=tuple(part for part in parts if not isinstance(part, VectorPatch)),
        vector_patches=vectors,
        report=Report(
            lora=f"{tuned.name} minus {base.name}",
            source=f"{tuned.name} ({tuned.architecture})",
            target=f"{base.name} ({base.architecture})",
            settings=settings.described(),
            rows=tuple(one.row for one in taken),
            notes=(note,) if note else (),
            pairs={block: block for block in blocks_in(module_tree(base))},
        ),
        energy_kept=kept / energy if energy else 1.0,
        accelerator=accelerator_of(tuned.name, {}),
    )


def _taken(place: Place, base: Model, tuned: Model, settings: ExtractionSettings) -> _Taken:
    row = _row(place, base, tuned)
    if not place.is_in_both:
        return _Taken(row)
    if _holds_no_numbers(place, base):
        return _Taken(replace(row, reason="it holds whole numbers"))
    weight, other = (
        model.weight(place.ref, settings.device, settings.dtype) for model in (base, tuned)
    )
    if torch.equal(weight, other):
        return _Taken(replace(row, reason=IDENTICAL))
    if _is_rounding(weight, other):
        return _Taken(replace(row, reason=ROUNDING))
    size, difference = _norm(weight), other - weight
    drift = _norm(difference) / size if size else math.inf
    row = replace(row, measures=Measures(drift=drift if size else None))
    if place.reason:
        return _Taken(row)
    if drift < settings.least:
        return _Taken(replace(row, reason=f"it differs by less than {settings.least:g} of itself"))
    if place.role != "lora":
        patch = VectorPatch(place.name, place.role, difference.cpu())
        return _Taken(replace(row, status="copied", reason="whole", family=patch.kind), patch)
    return _cut(place, row, difference, settings)


def _cut(
    place: Place, row: ModuleReport, difference: torch.Tensor, settings: ExtractionSettings
) -> _Taken:
    truncated = DenseUpdate(difference.flatten(1)).truncate(settings.rank, settings.energy)
    factors = LowRankUpdate(*map(outside_heap, (truncated.factors.up, truncated.factors.down)))
    adapter = made_lora(place.name, factors, tuple(difference.shape[1:]))
    row = replace(
        row,
        status="moved",
        family=adapter.family,
        rank_out=adapter.rank,
        energy_kept=1 - truncated.dropped,
        energy_dropped=truncated.dropped,
    )
    return _Taken(row, adapter, _norm(difference) ** 2)


def _norm(tensor: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor, dtype=torch.float64))


def _row(place: Place, base: Model, tuned: Model) -> ModuleReport:
    """Of what is left out, as far as nothing was read."""
    key = place.ref.key
    name = place.name or str(place.ref)
    shapes = [model.shape(place.ref) if key in model.weights else () for model in (tuned, base)]
    return ModuleReport(
        name=name if place.role == "lora" or not place.name else f"{name}.{place.role}",
        status="skipped",
        reason=place.reason,
        source_key=str(place.ref) if key in tuned.weights else "",
        target_key=str(place.ref) if key in base.weights else "",
        source_shape=shapes[0],
        target_shape=shapes[1],
    )


def _holds_no_numbers(place: Place, base: Model) -> bool:
    """Whether it is a table of indices: something beside the weights that is not trained."""
    key = place.ref.key
    return not key.endswith("weight") and not base.weights.read(key).is_floating_point()


def _is_rounding(weight: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether one of two weights is the other one rounded to a type of fewer digits."""
    first = [tensor.flatten()[:1024] for tensor in (weight, other)]
    return any(
        torch.equal(a.to(kind).to(a), b) and torch.equal(whole.to(kind).to(whole), rounded)
        for kind in _ROUNDED
        for a, b, whole, rounded in (
            (first[0], first[1], weight, other),
            (first[1], first[0], other, weight),
        )
    )


def _refuse_alike(taken: Sequence[_Taken], base: Model, tuned: Model) -> None:
    same = sum(one.row.reason == IDENTICAL for one in taken)
    raise ProLoRAError(
        f"Nothing of {tuned.name} differs from {base.name} in a way that a LoRA can hold: of "
        f"{len(taken)} weights {same} are identical. Are they two names of one model? LoRAs and "
        "merges that were added to a MODEL in the graph do not count: save that MODEL as a "
        "checkpoint first, and choose the file."
    )
