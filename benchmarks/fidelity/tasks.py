"""What is learned: pictures, a teacher's answers, a parent's trajectories in fewer steps."""

from dataclasses import dataclass

import torch
from torch import nn

from demo.emoji.code import PatchCode
from demo.emoji.prompt import encode_names
from demo.training.flow import euler, flow_loss, noise_levels, noised
from demo.training.train import Task

from .sets import KINDS, Pictures

CFG = 2.5  # of the parent of the step-distilled model, and of the pictures that are judged
STEPS, FEW_STEPS = 24, 4


def task_of(pictures: Pictures) -> Task:
    """To draw them at cfg 1, which is how a LoRA is trained."""
    return Task.of(pictures.pictures, PatchCode.load(), pictures.prompts)


class Guided(nn.Module):
    """A model under classifier-free guidance against the empty prompt."""

    def __init__(self, model: nn.Module, cfg: float) -> None:
        super().__init__()
        self.model, self.cfg = model, cfg

    def forward(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        y: torch.Tensor,
    ) -> torch.Tensor:
        empty, empty_pooled = encode_names([""])
        both = self.model(
            torch.cat([latents, latents]),
            torch.cat([timesteps, timesteps]),
            context=torch.cat([context, empty.expand_as(context)]),
            y=torch.cat([y, empty_pooled.expand_as(y)]),
        )
        v, without = both.chunk(2)
        return without + self.cfg * (v - without)


@dataclass(frozen=True)
class PromptDropTask(Task):
    """One row in ten is learned with the empty prompt, which guidance needs."""

    def loss(
        self, model: nn.Module, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        return flow_loss(model, self.latents[rows], *self.prompts(rows, generator), generator)

    def prompts(
        self, rows: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        lost = torch.rand(len(rows), generator=generator) < 0.1
        empty, empty_pooled = encode_names([""])
        context = torch.where(lost.view(-1, 1, 1), empty, self.context[rows])
        return context, torch.where(lost.view(-1, 1), empty_pooled, self.pooled[rows])


@dataclass(frozen=True)
class TaughtTask(PromptDropTask):
    """A teacher's velocities on noised pictures, as a pruned child learns them."""

    teacher: nn.Module | None = None

    def loss(
        self, model: nn.Module, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        assert self.teacher is not None
        context, pooled = self.prompts(rows, generator)
        inputs, sigma, _ = noised(self.latents[rows], generator)
        with torch.no_grad():
            taught = self.teacher(inputs, sigma * 1000, context=context, y=pooled)
        return (model(inputs, sigma * 1000, context=context, y=pooled) - taught).square().mean()


@dataclass(frozen=True)
class FewStepsTask(Task):
    """The steps of a step-distilled model: `latents` [N, 5, 16, h, w] are its parent's at its
    levels.
    """

    @classmethod
    def sampled(cls, parent: nn.Module, cfg: float, count: int, seed: int) -> "FewStepsTask":
        """Lets the parent draw `count` pictures of random kinds from random noise."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, 16, 8, 8, generator=generator)
        chosen = torch.randint(len(KINDS), (count,), generator=generator)
        context, pooled = (code[chosen] for code in encode_names(list(KINDS)))
        drawing = parent if cfg == 1 else Guided(parent, cfg)
        parts = [
            torch.stack(list(euler(drawing, *part, STEPS))[:: STEPS // FEW_STEPS], dim=1)
            for part in zip(noise.split(64), context.split(64), pooled.split(64), strict=True)
        ]
        return cls(torch.cat(parts), context, pooled)

    def loss(
        self, model: nn.Module, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Mean squared error of the velocity that leads from one level to the next."""
        levels = noise_levels(FEW_STEPS)
        level = torch.randint(FEW_STEPS, (len(rows),), generator=generator)
        before, after = self.latents[rows, level], self.latents[rows, level + 1]
        v = (after - before) / (levels[level + 1] - levels[level]).view(-1, 1, 1, 1)
        context, pooled = self.context[rows], self.pooled[rows]
        predicted = model(before, levels[level] * 1000, context=context, y=pooled)
        return (predicted - v).square().mean()

    @torch.no_grad()
    def distance(self, model: nn.Module) -> float:
        """How far a model ends from the parent in few steps from the same noise: mean squared
        difference of latents.
        """
        *_, drawn = euler(model, self.latents[:, 0], self.context, self.pooled, FEW_STEPS)
        return float((drawn - self.latents[:, -1]).square().mean())
