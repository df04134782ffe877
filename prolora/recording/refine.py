"""Refinement: a few steps of a moved LoRA's factors towards the source's recorded answers.

The student is the target with the moved LoRA, its factors free. The teacher is what the source with
the LoRA answered on the recorded latents, plus a share of what tells the target from the source
there: with none of it the target would learn to draw what the source draws, not just how. The loss
is the mean squared error of what the network itself puts out: noise, velocity or whatever it is.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from ..adapters import Adapter, LoraAdapter
from ..errors import ProLoRAError
from ..models.model import Model
from .forgetful import forgetful
from .listening import Progress
from .network import Network
from .recording import Recording
from .student import Free, attached, blocks_of, free
from .teacher import along, answers, at_once, derivative

HELD_OUT = 5  # one sample of as many is kept apart
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
    """

    adapters: tuple[Adapter, ...]
    losses: tuple[float, ...]
    held_out: tuple[tuple[int, float], ...]
    best: int
    left_out: dict[str, str] = field(default_factory=dict)


def refine(
    adapters: Sequence[Adapter],
    target: Model,
    network: Network,
    recording: Recording,
    settings: RefineSettings,
    progress: Progress = lambda done, total, name: None,
) -> Refined:
    """Refines a moved LoRA; the result is never worse than it on the latents kept apart.

    Gradients must be possible: no inference mode, and no weight of the network made in one.

    Args:
        adapters: by the target's names.

    Raises:
        ProLoRAError: no module of it can be refined, the recording is too small, or the target
            answers what is no number.
    """
    modules, left_out = free(tuple(adapters), target, network.layers)
    if not modules:
        first = next(iter(left_out.items()), ("", "it is empty"))
        raise ProLoRAError(
            f"Nothing of this LoRA can be refined: {first[0]}: {first[1]}. Apply it as it is."
        )
    lesson = _Lesson.of(network, recording, settings.own, progress)
    taught, kept_apart = _split(recording.sample_of, settings)
    optimizer = _optimizer(modules, settings)
    losses: list[float] = []
    blocks = blocks_of(network.root, modules)
    due = _due(settings.steps)
    with attached(modules), torch.enable_grad():
        best = _Best(modules, lesson.asked(kept_apart))
        with forgetful(blocks, network.again):
            for step, batch in enumerate(_batches(taught, settings), 1):
                progress(step - 1, settings.steps, "refining")
                losses.append(_step(optimizer, lesson, batch))
                if step in due:
                    best.see(step, modules, lesson.asked(kept_apart))
    progress(settings.steps, settings.steps, "")
    made = {
        module.adapter.name: adapter for module, adapter in zip(modules, best.made, strict=True)
    }
    return Refined(
        adapters=tuple(made.get(adapter.name, adapter) for adapter in adapters),
        losses=tuple(losses),
        held_out=tuple(best.seen),
        best=best.step,
        left_out=left_out,
    )


@dataclass(frozen=True)
class _Lesson:
    """The recorded latents and what a network should answer.

    Attributes:
        wanted: N x ..., the derivatives of the teacher.
    """

    network: Network
    recording: Recording
    wanted: torch.Tensor

    @classmethod
    def of(
        cls, network: Network, recording: Recording, own: float, progress: Progress
    ) -> "_Lesson":
        """The lesson; see RefineSettings for `own`."""
        wanted = recording.derivatives.float()
        if own:
            everyone = torch.arange(len(recording))
            latents, prompts = recording.latents, recording.prompts_at(everyone)
            target = answers(network, latents, recording.sigmas, prompts, progress, "the target")
            wanted = wanted + own * (target - recording.derivatives_without.float())
        return cls(network, recording, wanted)

    def loss(self, examples: torch.Tensor) -> torch.Tensor:
        """The mean squared error of what the network puts out on some latents."""
        recording = self.recording
        latents, sigmas = recording.latents[examples].float(), recording.sigmas[examples]
        denoised = self.network.denoise(latents, sigmas, recording.prompts_at(examples)).cpu()
        missing = derivative(latents, denoised, sigmas) - self.wanted[examples]
        # x0 = x - sigma d, and x0 moves by output_scale with what the network puts out.
        weight = sigmas / self.network.output_scale(sigmas).cpu()
        loss = (missing * along(weight, missing)).square().mean()
        if not torch.isfinite(loss):
            broken = [
                f"{float(s):.4g}"
                for s, m in zip(sigmas, missing, strict=True)
                if not m.isfinite().all()
            ]
            raise ProLoRAError(
                f"The target's prediction at sigma {', '.join(broken)} holds NaN or infinity. Load "
                "the model in another precision (fp32 or bf16), and see whether its pictures are "
                "whole."
            )
        return loss

    @torch.no_grad()
    def asked(self, examples: torch.Tensor) -> float:
        """The loss, without gradients."""
        return sum(self.loss(some).item() * len(some) for some in self.portions(examples)) / len(
            examples
        )

    def portions(self, examples: torch.Tensor) -> Sequence[torch.Tensor]:
        """The examples in portions that run at once."""
        return torch.split(examples, at_once(self.recording.latents))


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


def _optimizer(modules: Sequence[Free], settings: RefineSettings) -> torch.optim.Optimizer:
    """Adam, whose first steps have the size of its rate: a share of the factor's own size.

    Of a module that changes nothing yet, `up` is zero and takes the size of `down`.
    """
    groups = []
    for module in modules:
        down, up = (float(f.detach().square().mean().sqrt()) for f in (module.down, module.up))
        groups += [
            {"params": [module.up], "lr": settings.rate * (up or down)},
            {"params": [module.down], "lr": settings.rate * (down or up)},
        ]
    return torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-12)


def _step(optimizer: torch.optim.Optimizer, lesson: _Lesson, batch: torch.Tensor) -> float:
    optimizer.zero_grad()
    total = 0.0
    for some in lesson.portions(batch):
        loss = lesson.loss(some) * len(some) / len(batch)
        torch.autograd.backward(loss * _SCALE)
        total += loss.item()
    factors = [factor for group in optimizer.param_groups for factor in group["params"]]
    for factor in factors:
        if factor.grad is None or not factor.grad.isfinite().all():
            return total  # a layer that did not run, or a gradient beyond half precision
    for factor in factors:
        assert factor.grad is not None
        factor.grad /= _SCALE
    optimizer.step()
    return total
