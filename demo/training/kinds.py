"""A model that is asked for a kind of emoji, as `food-fruit`, and a child of it for four steps.

    python -m demo.training.kinds kinds --tarballs FOLDER
    python -m demo.training.kinds kinds_distilled --tarballs FOLDER

A prompt leaves open which emoji of its kind is drawn, by which of the two vendors: unlike the
demo's other models this one has something to gain from guidance. The child has learned one step
between four noise levels of its parent's guided sampling, so it is sampled at cfg 1.

On one CPU core the parent takes about 14 minutes and the child about 10, a third of that for the
parent's samples.
"""

import argparse
import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from demo.emoji.code import PatchCode
from demo.emoji.prompt import encode_names
from demo.training.data import VENDORS, on_white, read_emoji, read_table
from demo.training.flow import euler, noise_levels
from demo.training.model import build_model, load_model, save_model
from demo.training.train import Recipe, Task, fit

EVIDENCE = Path(__file__).resolve().parent.parent / "evidence"
KIND_CHECKPOINTS = {
    "kinds": EVIDENCE / "kinds.safetensors",
    "kinds_distilled": EVIDENCE / "kinds_distilled.safetensors",
}
# Subcategories of the emoji table.
KINDS = (
    "animal-bird",
    "animal-mammal",
    "clothing",
    "drink",
    "face-concerned",
    "food-fruit",
    "food-prepared",
    "heart",
    "place-building",
    "sky & weather",
    "sport",
    "transport-ground",
)
RECIPES = {
    "kinds": Recipe(steps=5500, rate=1e-3, seed=11, batch=32),
    "kinds_distilled": Recipe(steps=2500, rate=5e-4, seed=12, batch=32),
}
CFG = 2.5
STEPS, CHILD_STEPS = 24, 4
TRAJECTORIES = 2560


def read_kinds(tarballs: Path) -> tuple[torch.Tensor, list[str]]:
    """All pictures [N, 3, 32, 32] of the kinds by both vendors, and the kind of each."""
    table = [entry for entry in read_table(tarballs, "google") if entry["subcategory"] in KINDS]
    table = [entry for entry in table if entry["has_img_google"] and entry["has_img_twitter"]]
    names = [entry["short_name"] for entry in table]
    pictures = [on_white(read_emoji(tarballs, vendor, names)) for vendor in VENDORS.values()]
    return torch.cat(pictures), [entry["subcategory"] for entry in table] * len(pictures)


@dataclass(frozen=True)
class PromptDropTask(Task):
    """One row in ten is learned with the empty prompt, which guidance needs."""

    def loss(
        self, model: nn.Module, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        lost = torch.rand(len(self.latents), generator=generator) < 0.1
        context, pooled = encode_names([""])
        dropped = Task(
            self.latents,
            torch.where(lost.view(-1, 1, 1), context, self.context),
            torch.where(lost.view(-1, 1), pooled, self.pooled),
        )
        return dropped.loss(model, rows, generator)


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
        empty_context, empty = encode_names([""])
        v = self.model(latents, timesteps, context=context, y=y)
        without = self.model(
            latents,
            timesteps,
            context=empty_context.expand_as(context),
            y=empty.expand_as(y),
        )
        return without + self.cfg * (v - without)


@dataclass(frozen=True)
class DistillTask(Task):
    """The child's steps: `latents` [N, 5, 16, h, w] are the parent's at the child's levels."""

    @classmethod
    def sampled(cls, parent: nn.Module, count: int, seed: int) -> "DistillTask":
        """Let the guided parent draw `count` pictures of random kinds from random noise."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(count, 16, 8, 8, generator=generator)
        chosen = torch.randint(len(KINDS), (count,), generator=generator)
        context, pooled = (code[chosen] for code in encode_names(list(KINDS)))
        guided = Guided(parent, CFG)
        parts = [
            torch.stack(list(euler(guided, *part, STEPS))[:: STEPS // CHILD_STEPS], dim=1)
            for part in zip(noise.split(64), context.split(64), pooled.split(64), strict=True)
        ]
        return cls(torch.cat(parts), context, pooled)

    def loss(
        self, model: nn.Module, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Mean squared error of the velocity that leads from one level to the next."""
        levels = noise_levels(CHILD_STEPS)
        level = torch.randint(CHILD_STEPS, (len(rows),), generator=generator)
        before, after = self.latents[rows, level], self.latents[rows, level + 1]
        v = (after - before) / (levels[level + 1] - levels[level]).view(-1, 1, 1, 1)
        context, pooled = self.context[rows], self.pooled[rows]
        predicted = model(before, levels[level] * 1000, context=context, y=pooled)
        return (predicted - v).square().mean()

    def error(self, model: nn.Module) -> float:
        """How far a model ends from the parent in the child's steps from the same noise: mean of
        ||x - x_parent|| / ||x_parent||.
        """
        noise, wanted = self.latents[:, 0], self.latents[:, -1]
        *_, drawn = euler(model, noise, self.context, self.pooled, CHILD_STEPS)
        errors = (drawn - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1)
        return errors.mean().item()


def train_kinds(tarballs: Path) -> None:
    """From scratch, on the pictures of all kinds."""
    recipe, code = RECIPES["kinds"], PatchCode.load()
    pictures, kinds = read_kinds(tarballs)
    torch.manual_seed(recipe.seed)
    model = build_model()
    averages = fit(model, model, PromptDropTask.of(pictures, code, kinds), recipe)
    save_model(averages, KIND_CHECKPOINTS["kinds"])
    loss = Task.of(pictures, code, kinds).held_out(averages)
    print(f"{len(pictures)} pictures, held-out loss {loss:.4f}")


def distil() -> None:
    """Train the child on its parent's samples; print how far it ends from fresh ones."""
    recipe = RECIPES["kinds_distilled"]
    parent = load_model(KIND_CHECKPOINTS["kinds"])
    task = DistillTask.sampled(parent, TRAJECTORIES, seed=recipe.seed)
    fresh = DistillTask.sampled(parent, 128, seed=2**31)
    child = copy.deepcopy(parent)
    averages = fit(child, child, task, recipe)
    save_model(averages, KIND_CHECKPOINTS["kinds_distilled"])
    for name, model in (
        ("child", averages),
        ("parent unguided", parent),
        ("parent guided", Guided(parent, CFG)),
    ):
        print(f"{name}: {CHILD_STEPS} steps, relative error {fresh.error(model):.3f}")
    pairs = zip(averages.parameters(), parent.parameters(), strict=True)
    drifts = [((w - old).norm() / old.norm()).item() for w, old in pairs if w.dim() == 2]
    print(f"mean drift {sum(drifts) / len(drifts):.3f} over {len(drifts)} weights")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(KIND_CHECKPOINTS))
    parser.add_argument("--tarballs", type=Path, default=Path(), help="folder of the two tarballs")
    options = parser.parse_args()
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    if options.what == "kinds":
        train_kinds(options.tarballs)
    else:
        distil()


if __name__ == "__main__":
    main()
