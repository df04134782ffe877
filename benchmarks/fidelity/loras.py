"""The LoRAs: each on A and, with the same pictures, steps and seeds, anew on every target."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path

import torch
from torch import nn

from benchmarks.evidence.results import Results
from demo.training.model import Lora, load_model
from demo.training.train import Recipe, Task, fit

from . import models, sets
from .effort import effort
from .tasks import FewStepsTask, task_of
from .trained import Dora, Foura

SEEDS = (1, 2, 3)
FAST_TRAJECTORIES = 512


def _lora(model: nn.Module, rank: int) -> Lora:
    return Lora(model, rank, alpha=float(rank))


FAMILIES = {"lora": _lora, "dora": Dora, "foura": Foura}


@dataclass(frozen=True)
class Subject:
    """What a LoRA learns, and how.

    Attributes:
        kind: "style", "concept" or "fast" (the acceleration LoRA: four steps instead of 24).
        name: of the style or concept.
    """

    kind: str
    name: str
    family: str = "lora"
    rank: int = 8

    def __str__(self) -> str:
        return f"{self.name}_{self.family}_{self.rank}"

    @property
    def is_drawn(self) -> bool:
        """Whether its pictures are judged: of a style at rank 32, as in the paper, of a concept at
        rank 8, and of the other families.
        """
        usual = {"style": 32, "concept": 8}.get(self.kind, self.rank)
        return self.family != "lora" or self.rank == usual

    @property
    def recipe(self) -> Recipe:
        """Peak rates by the rank; a concept has few pictures and is learned soon."""
        steps, batch = {"style": (120, 24), "concept": (100, 16), "fast": (150, 24)}[self.kind]
        return Recipe(steps, 1.5e-2 if self.rank <= 8 else 1e-2, seed=0, batch=batch, average=0.97)


STYLES = [Subject("style", name, rank=rank) for rank in (32, 8) for name in sets.STYLES]
CONCEPTS = [Subject("concept", name, rank=rank) for rank in (8, 32) for name in sets.CONCEPTS]
DORA = Subject("style", "contrast", "dora", 8)
FOURA = Subject("style", "contrast", "foura", 64)
FAST = Subject("fast", "fast", rank=32)
# Those that are drawn come first.
SUBJECTS = sorted((*STYLES, *CONCEPTS, DORA, FOURA, FAST), key=lambda subject: not subject.is_drawn)


@dataclass(frozen=True)
class Job:
    """One LoRA to train."""

    model: str
    subject: Subject
    seed: int

    @property
    def path(self) -> Path:
        return effort().folder / "loras" / f"{self.model}_{self.subject}_{self.seed}.safetensors"

    @property
    def is_wanted(self) -> bool:
        """The step-distilled model needs no acceleration, and no table has it by ranks."""
        is_drawn = self.subject.is_drawn and self.subject.kind != "fast"
        return self.model != models.DISTILLED or is_drawn


@cache
def pictures(subject: Subject) -> tuple[sets.Pictures, sets.Pictures]:
    """A style's or concept's pictures to train on, and those held out."""
    of = {"style": sets.of_style, "concept": sets.of_concept}[subject.kind]
    return of(subject.name)


@cache
def own_steps(model: str, is_held_out: bool) -> FewStepsTask:
    """A model's own 24 steps without guidance, which its acceleration LoRA learns to do in four.

    They are drawn by a copy, as the model itself may wear a LoRA when they are first asked for.
    """
    count, seed = (96, 2**31) if is_held_out else (effort().of(FAST_TRAJECTORIES), 31)
    alone = load_model(models.path(model)).requires_grad_(False)
    return FewStepsTask.sampled(alone, 1.0, count, seed)


def learned(job: Job) -> Task:
    if job.subject.kind == "fast":
        return own_steps(job.model, False)
    return task_of(pictures(job.subject)[0])


def train(job: Job) -> float:
    """Trains one LoRA and saves it; returns the seconds of CPU time."""
    model = load_model(models.path(job.model)).requires_grad_(False)
    task, start = learned(job), time.process_time()
    torch.manual_seed(job.seed)
    lora = FAMILIES[job.subject.family](model, job.subject.rank)
    recipe = replace(effort().recipe(job.subject.recipe), seed=job.seed)
    with lora.on(model):
        averages = fit(model, lora, task, recipe)
    job.path.parent.mkdir(parents=True, exist_ok=True)
    averages.save(job.path)
    return time.process_time() - start


def jobs(
    of_models: Sequence[str], subjects: Sequence[Subject] = SUBJECTS, seeds: Sequence[int] = SEEDS
) -> Iterator[Job]:
    """Those that are still to do; all of one seed come before the next seed."""
    for seed, subject, model in product(seeds, subjects, of_models):
        job = Job(model, subject, seed)
        if job.is_wanted and not job.path.is_file():
            yield job


def train_missing(
    results: Results,
    of_models: Sequence[str] = tuple(models.MODELS),
    subjects: Sequence[Subject] = SUBJECTS,
    seeds: Sequence[int] = SEEDS,
) -> None:
    """Trains what is not there, and notes the time that each took."""
    for job in jobs(of_models, subjects, seeds):
        seconds = train(job)
        if not results.known(job.model, job.subject, job.seed):
            results.add(job.model, str(job.subject), job.seed, seconds=seconds)
        print(job.path.stem, f"{seconds:.0f} s", flush=True)


def times() -> Results:
    """What each LoRA took."""
    return Results(
        effort().results / "fidelity_loras.csv", ("model", "subject", "seed"), ("seconds",)
    )
