"""Refinement: a few steps of a moved LoRA's factors towards the source's recorded answers.

The student is the target with the moved LoRA, its factors free. The teacher is what the source with
the LoRA answered on the recorded latents, plus a share of what tells the target from the source
there: with none of it the target would learn to draw what the source draws, not just how. The loss
is the mean squared error of what the network itself puts out: noise, velocity or whatever it is.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ..adapters import Adapter, LoraAdapter
from ..errors import ProLoRAError
from ..models.model import Model
from ..progress import Progress, silent
from .forgetful import forgetful
from .lesson import Lesson
from .network import Network
from .recording import Recording
from .student import Free, attached, blocks_of, free, left_out

HELD_OUT = 5  # one sample of as many is kept apart
_SILENT = "its layer did not run"
_CHECKS = 5  # how often on the way the latents kept apart are asked
_SCALE = 2.0**10  # of the loss: a half precision gradient would underflow without


@dataclass(frozen=True)
class RefineSettings:
    """The choices of a refinement, with their defaults.

    Attributes:
        steps: of Adam (Kingma and Ba, arXiv 1412.6980).
        batch: latents a step.
        rate: the size of a step, as a share of a factor's root mean square.
        own: the share of what tells the target from the source that the teacher keeps, in [0, 1].
        seed: of what latents come when, and which are kept apart.

    Raises:
        ProLoRAError: a value is out of its range.
    """

    steps: int = 25
    batch: int = 16
    rate: float = 0.03
    own: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps < 0 or self.batch < 1 or not 0 < self.rate < 1:
            raise ProLoRAError(
                f"Refining takes 0 steps or more, a batch of 1 or more and a rate between 0 and 1, "
                f"not {self.steps}, {self.batch} and {self.rate:g}."
            )
        if not 0 <= self.own <= 1:
            raise ProLoRAError(
                f"The share of the target's own is {self.own:g}; choose one from 0 to 1."
            )


@dataclass(frozen=True)
class Refined:
    """A refined LoRA, and how it went.

    Attributes:
        adapters: in the order that they came in; those that were not refined are as they were.
        losses: of each step, on its batch.
        held_out: (steps done, loss on the latents kept apart); the first is what came in.
        best: the steps after which the result was taken.
        left_out: module -> why it stays as it was.
        skipped: how many of the steps came to nothing, because half precision could not hold their
            gradients.
    """

    adapters: tuple[Adapter, ...]
    losses: tuple[float, ...]
    held_out: tuple[tuple[int, float], ...]
    best: int
    left_out: dict[str, str] = field(default_factory=dict)
    skipped: int = 0


def refine(
    adapters: Sequence[Adapter],
    target: Model,
    network: Network,
    recording: Recording,
    settings: RefineSettings,
    progress: Progress = silent,
    bare: Network | None = None,
) -> Refined:
    """Refines a moved LoRA; the result is never worse than it on the latents kept apart.

    Gradients must be possible: no inference mode, and no weight of the network made in one.

    Args:
        adapters: by the target's names.
        network: the target, with whatever of the LoRA is not refined (see student.left_out): else
            the rest would learn to take its place.
        bare: the target without any of the LoRA; the network where nothing is left out.

    Raises:
        ProLoRAError: no module of it can be refined, the recording is too small or of a model that
            adds noise in another way, or the target answers what is no number.
    """
    recording.check_noise(network.noised, target.name)
    why = left_out(adapters, target, network.layers)
    modules = free(adapters, target, network.layers)
    lesson = Lesson.of(network, bare or network, recording, settings.own, progress)
    taught, kept_apart = _split(recording.sample_of, settings)
    total = settings.steps
    with attached(modules) as ran, torch.enable_grad():
        before = lesson.asked(kept_apart, 0, total)
        why |= {m.adapter.name: _SILENT for m in modules if m.adapter.name not in ran}
        modules = [module for module in modules if module.adapter.name in ran]
        _refuse_nothing(modules, why)
        best = _Best(modules, before)
        optimizer, due = _Optimizer(modules, settings), _due(total)
        losses: list[float] = []
        with forgetful(blocks_of(network.root, modules), network.again):
            for step, batch in enumerate(_batches(taught, settings), 1):
                losses.append(optimizer.step(lesson.losses(batch, step - 1, total)))
                if step in due:
                    best.see(step, modules, lesson.asked(kept_apart, step, total))
    progress(total, total, "")
    made = {m.adapter.name: found for m, found in zip(modules, best.made, strict=True)}
    return Refined(
        adapters=tuple(made.get(adapter.name, adapter) for adapter in adapters),
        losses=tuple(losses),
        held_out=tuple(best.seen),
        best=best.step,
        left_out=why,
        skipped=optimizer.skipped,
    )


def _refuse_nothing(modules: Sequence[Free], why: Mapping[str, str]) -> None:
    if not modules:
        name, reason = next(iter(why.items()), ("", "it is empty"))
        raise ProLoRAError(
            f"Nothing of this LoRA can be refined: {name}: {reason}. Apply it as it is."
        )


class _Best:
    """The factors that were best on the latents kept apart."""

    def __init__(self, modules: Sequence[Free], loss: float) -> None:
        self.step, self.seen = 0, [(0, loss)]
        self.made: list[LoraAdapter] = [module.adapter for module in modules]

    def see(self, step: int, modules: Sequence[Free], loss: float) -> None:
        if loss < min(seen for _, seen in self.seen):
            self.step, self.made = step, [module.made() for module in modules]
        self.seen.append((step, loss))


def _split(sample_of: torch.Tensor, settings: RefineSettings) -> tuple[torch.Tensor, torch.Tensor]:
    """The latents to learn from, and those kept apart: all of some samples."""
    samples = torch.tensor(sorted(set(sample_of.tolist())))
    if len(samples) < 2:
        raise ProLoRAError(
            f"The recording has {len(samples)} sample, so none can be kept apart. Record more "
            "samples."
        )
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(samples), generator=generator)
    apart = torch.isin(sample_of, samples[order[: max(len(samples) // HELD_OUT, 1)]])
    return (~apart).nonzero().flatten(), apart.nonzero().flatten()


def _batches(taught: torch.Tensor, settings: RefineSettings) -> Iterator[torch.Tensor]:
    """As many batches as steps; every latent comes once before one comes again."""
    generator = torch.Generator().manual_seed(settings.seed + 1)
    waiting = torch.empty(0, dtype=torch.long)
    for _ in range(settings.steps):
        while len(waiting) < min(settings.batch, len(taught)):
            waiting = torch.cat([waiting, taught[torch.randperm(len(taught), generator=generator)]])
        yield waiting[: settings.batch]
        waiting = waiting[settings.batch :]


def _due(steps: int) -> set[int]:
    """After which steps the latents kept apart are asked: the last, and some before it."""
    return {round(steps * part / _CHECKS) for part in range(1, _CHECKS + 1)} - {0}


class _Optimizer:
    """Adam, whose first steps have the size of its rate: a share of the factor's own size.

    Attributes:
        skipped: steps that came to nothing, see Refined.
    """

    def __init__(self, modules: Sequence[Free], settings: RefineSettings) -> None:
        groups = []
        for module in modules:
            down, up = (float(f.detach().square().mean().sqrt()) for f in (module.down, module.up))
            # Of a module that changes nothing yet, `up` is zero and takes the size of `down`.
            groups += [
                {"params": [module.up], "lr": settings.rate * (up or down)},
                {"params": [module.down], "lr": settings.rate * (down or up)},
            ]
        self._adam = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12)
        self._factors = [factor for module in modules for factor in (module.up, module.down)]
        self._scale = _SCALE
        self.skipped = 0

    def step(self, losses: Iterable[torch.Tensor]) -> float:
        """A step by the sum of the losses, each of which is forgotten before the next; the sum."""
        self._adam.zero_grad()
        total = 0.0
        for loss in losses:
            _backward(loss * self._scale)
            total += loss.item()
        gradients = [factor.grad for factor in self._factors if factor.grad is not None]
        if not all(gradient.isfinite().all() for gradient in gradients):
            self._scale /= 8
            self.skipped += 1
            return total
        for gradient in gradients:
            gradient /= self._scale
        self._adam.step()
        return total


def _backward(loss: torch.Tensor) -> None:
    """Adds the gradients to the factors.

    After an error in the middle, as of memory, torch holds what was left to do of the graph, with
    all its activations, until this thread goes backward once more.
    """
    try:
        torch.autograd.backward(loss)
    except BaseException:
        torch.autograd.backward(torch.zeros((), requires_grad=True) * 1)
        raise
