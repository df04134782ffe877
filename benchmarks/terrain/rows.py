"""Every way to move a LoRA from one version to the other, by the name of its row."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch

from benchmarks.evidence.rivals import casa_of_nothing, denoising, orthogonal, theseus
from prolora import TransferSettings
from prolora.adapters import Adapter
from prolora.algebra.kept import Kept
from prolora.recording.calibrated import transfer_recorded
from prolora.recording.record import Clean, RecordingSettings, record
from prolora.recording.recording import Recording
from prolora.recording.refine import RefineSettings, refine
from prolora.transfer.job import transfer_resolved

from .loras import RANK, SEEDS, Job, as_trained, resolved
from .maps import difficulties, drawn, levels
from .models import model, network, network_of, prompts_of, worn

SAMPLES = 32  # of a recording, each at one noise level
THESEUS_POSITIONS = 64  # of each of them
REFINING = RefineSettings(batch=4)
# Every module moves, however alike its two weights are.
ALL = TransferSettings(threshold=0)
CASA = replace(ALL, mode="casa", rank=RANK)
KEPT = Kept()  # subspaces, from one case to the next


@dataclass(frozen=True)
class Case:
    """One LoRA on its way from one version to the other.

    Attributes:
        change: what it does; see maps.CHANGES.
        seed: of its training, and of the one that is trained anew on the target.
    """

    source: str
    target: str
    change: str
    seed: int

    @property
    def lora(self) -> Job:
        """The one that is moved."""
        return Job(self.source, self.change, self.seed)

    @property
    def retrained(self) -> Job:
        """The one that is trained anew on the target."""
        return Job(self.target, self.change, self.seed)

    @property
    def retrained_again(self) -> Job:
        """The same with another seed."""
        return Job(self.target, self.change, SEEDS[self.seed % len(SEEDS)])


def by_weights(case: Case, settings: TransferSettings) -> Sequence[Adapter]:
    return transfer_resolved(resolved(case.lora), model(case.target), settings, kept=KEPT).adapters


@cache
def recording(lora: Job) -> Recording:
    """What a version says of a LoRA: maps that it draws with it, each at some noise level."""
    generator = torch.Generator().manual_seed(99)
    adapters, of = as_trained(lora), difficulties(SAMPLES, generator, False)
    with worn(lora.version, adapters):
        clean = drawn(network(lora.version), of, generator)
    return record(
        resolved(lora),
        network_of(lora.version),
        network_of(lora.version, adapters),
        Clean(clean, prompts_of(of), torch.arange(SAMPLES)),
        levels(SAMPLES, generator).tolist(),
        "terrain",
        RecordingSettings(levels=1),
    )


@cache
def calibrated(case: Case) -> Sequence[Adapter]:
    heard, running = recording(case.lora), network_of(case.target)
    return transfer_recorded(resolved(case.lora), model(case.target), heard, running, ALL).adapters


def refined(case: Case) -> Sequence[Adapter]:
    heard, running = recording(case.lora), network_of(case.target)
    return refine(calibrated(case), model(case.target), running, heard, REFINING).adapters


def by_theseus(case: Case) -> Sequence[Adapter]:
    """On the noised maps of the recording."""
    heard = recording(case.lora)
    prompts = heard.prompts_at(torch.arange(len(heard)))
    both = [
        denoising(network_of(version), heard.latents, heard.sigmas, prompts)
        for version in (case.source, case.target)
    ]
    return theseus(
        resolved(case.lora), model(case.target), *both, len(heard), THESEUS_POSITIONS
    ).adapters


def forget() -> None:
    """What is kept of a case."""
    recording.cache_clear()
    calibrated.cache_clear()


Way = Callable[[Case], Sequence[Adapter] | None]

# None is the target without a LoRA. The last is no way to move, but the floor of the noise.
WAYS: Mapping[str, Way] = {
    "none": lambda case: None,
    "retrained": lambda case: as_trained(case.retrained),
    "copy": lambda case: by_weights(case, replace(ALL, mode="copy")),
    "subspace": lambda case: by_weights(case, replace(ALL, mode="subspace")),
    "prolora": lambda case: by_weights(case, replace(ALL, mode="prolora")),
    "full": lambda case: by_weights(case, replace(ALL, mode="full")),
    "casa": lambda case: by_weights(case, CASA),
    "casa of nothing": lambda case: (
        casa_of_nothing(resolved(case.lora), model(case.target), CASA).adapters
    ),
    "orthogonal": lambda case: orthogonal(resolved(case.lora), model(case.target)).adapters,
    "theseus": by_theseus,
    "calibrated": calibrated,
    "refined": refined,
    "retrained again": lambda case: as_trained(case.retrained_again),
}
LISTENING = {"theseus", "calibrated", "refined"}  # rows that need a recording
