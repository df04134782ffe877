"""Every way to move a LoRA, by the name of its row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from benchmarks.evidence.rivals import casa_of_nothing, denoising, orthogonal
from benchmarks.evidence.rivals.theseus import ProcrustesMaps, rotated
from demo.emoji.prompt import encode_names
from demo.training.flow import euler, noise_levels
from demo.training.network import as_clean, levels, network_of, prompts_of
from prolora import TransferSettings, read_adapter_file
from prolora.adapters import Adapter
from prolora.algebra.kept import Kept
from prolora.recording.calibrated import transfer_recorded
from prolora.recording.record import RecordingSettings, record
from prolora.recording.recording import Recording
from prolora.recording.refine import RefineSettings, refine
from prolora.transfer.job import transfer_resolved
from prolora.transfer.resolve import ResolvedLora, resolve

from .loras import Job, Subject
from .models import DISTILLED, SOURCE, model, network
from .sets import KINDS
from .tasks import CFG, FEW_STEPS, Guided
from .worn import Worn

SAMPLES, LEVELS, SAMPLE_STEPS = 64, 2, 12  # of a recording
EXAMPLES = SAMPLES * LEVELS  # that Theseus hears
REFINING = RefineSettings()
# An accelerator is to bring its speed, not what the source draws; the default stands beside it.
REFINING_ACCELERATOR = replace(REFINING, own=1.0)
BY_DEFAULT = f"refined, own {REFINING.own:g}"
# Every module moves, however alike its two weights are; what a threshold does has its own table.
ALL = TransferSettings(threshold=0)
KEPT = Kept()  # subspaces, from one case to the next


@dataclass(frozen=True)
class Case:
    """One LoRA, trained with one seed, on one target."""

    target: str
    subject: Subject
    seed: int

    @property
    def source(self) -> Job:
        """The LoRA that is moved."""
        return Job(SOURCE, self.subject, self.seed)

    @property
    def retrained(self) -> Job:
        """The one that is trained anew on the target."""
        return Job(self.target, self.subject, self.seed)


@cache
def resolved(lora: Job) -> ResolvedLora:
    return resolve(read_adapter_file(lora.path), model(lora.model))


def as_trained(lora: Job) -> Sequence[Adapter]:
    """A LoRA on the model that it was trained on."""
    settings = replace(ALL, mode="copy")
    return transfer_resolved(resolved(lora), model(lora.model), settings).adapters


# --- by weights alone ---------------------------------------------------------------------------


def by_weights(case: Case, settings: TransferSettings) -> Sequence[Adapter]:
    return transfer_resolved(
        resolved(case.source), model(case.target), settings, kept=KEPT
    ).adapters


def casa(case: Case) -> TransferSettings:
    """At the LoRA's own rank; its authors' is 32, which a test of every rank has."""
    return replace(ALL, mode="casa", rank=case.subject.rank)


# --- listening ----------------------------------------------------------------------------------


@cache
def recording(source: Job, is_for_few_steps: bool, samples: int = SAMPLES) -> Recording:
    """What A says of a LoRA: pictures that it draws with it, each at two noise levels."""
    running = network(SOURCE)
    with_lora = Worn(SOURCE, as_trained(source))
    settings = RecordingSettings(LEVELS)
    if is_for_few_steps:
        schedule = tuple(noise_levels(FEW_STEPS).tolist())
        settings = replace(settings, schedule=schedule, cfg=CFG)
    is_fast = source.subject.kind == "fast"
    names = prompts_for(source.subject, samples)
    generator = torch.Generator().manual_seed(99)
    noise = torch.randn(samples, 16, 8, 8, generator=generator)
    with with_lora.on(running):
        drawing = running if is_fast else Guided(running, CFG)
        steps = FEW_STEPS if is_fast else SAMPLE_STEPS
        *_, latents = euler(drawing, noise, *encode_names(names), steps)
    sigmas = levels(samples * LEVELS, seed=0)
    if is_fast:
        sigmas = noise_levels(FEW_STEPS)[:-1].tolist() * (samples * LEVELS // FEW_STEPS)
    return record(
        resolved(source),
        network_of(running),
        network_of(running, with_lora),
        as_clean(latents, names, None if is_fast else ""),
        sigmas,
        "SD3",
        settings,
    )


def prompts_for(subject: Subject, count: int) -> list[str]:
    """The prompts that an artist would record a LoRA with: kinds, for a concept its own as well."""
    names = list(KINDS)
    if subject.kind == "concept":
        names = [name for kind in names for name in (subject.name, kind)]
    return [names[i % len(names)] for i in range(count)]


@cache
def rotations(target: str) -> ProcrustesMaps:
    """Theseus's maps, one set for all LoRAs: A and the target on noised pictures that A draws."""
    names = [KINDS[i % len(KINDS)] for i in range(SAMPLES)]
    generator = torch.Generator().manual_seed(98)
    noise = torch.randn(SAMPLES, 16, 8, 8, generator=generator)
    *_, clean = euler(Guided(network(SOURCE), CFG), noise, *encode_names(names), SAMPLE_STEPS)
    latents, sigmas = clean.repeat(LEVELS, 1, 1, 1), torch.tensor(levels(EXAMPLES, seed=1))
    noise = torch.randn(latents.shape, generator=generator)
    noised = torch.lerp(latents, noise, sigmas.view(-1, 1, 1, 1))
    both = [
        denoising(network_of(network(which)), noised, sigmas, prompts_of(names * LEVELS))
        for which in (SOURCE, target)
    ]
    return ProcrustesMaps(*both, EXAMPLES, positions=1024, seed=0)


@cache
def calibrated(case: Case, samples: int = SAMPLES) -> Sequence[Adapter]:
    heard = recording(case.source, case.target == DISTILLED, samples)
    return transfer_recorded(
        resolved(case.source),
        model(case.target),
        heard,
        network_of(network(case.target)),
        ALL,
    ).adapters


def refined(
    case: Case, settings: RefineSettings = REFINING, samples: int = SAMPLES
) -> Sequence[Adapter]:
    heard = recording(case.source, case.target == DISTILLED, samples)
    running = network_of(network(case.target))
    return refine(calibrated(case, samples), model(case.target), running, heard, settings).adapters


# --- all ----------------------------------------------------------------------------------------

Way = Callable[[], Sequence[Adapter] | None]


def ways(case: Case) -> Mapping[str, Way]:
    """The rows, in the order of the tables; None is the target without a LoRA."""
    lora, into = resolved(case.source), model(case.target)
    found: dict[str, Way] = {
        "none": lambda: None,
        "retrained": lambda: as_trained(case.retrained),
    }
    for mode in ("copy", "subspace", "prolora", "full"):
        found[mode] = lambda mode=mode: by_weights(case, replace(ALL, mode=mode))
    found["casa"] = lambda: by_weights(case, casa(case))
    found["casa of nothing"] = lambda: casa_of_nothing(lora, into, casa(case)).adapters
    found["orthogonal"] = lambda: orthogonal(lora, into).adapters
    found["theseus"] = lambda: rotated(lora, into, rotations(case.target)).adapters
    found["calibrated"] = lambda: calibrated(case)
    found["refined"] = lambda: refined(case)
    if case.subject.kind == "fast":
        found["refined"] = lambda: refined(case, REFINING_ACCELERATOR)
        found[BY_DEFAULT] = lambda: refined(case)
    if case.subject.family == "dora":
        del found["refined"]  # DoRAs are calibrated, not refined
    return found
