"""Train the demo's files: checkpoint A, then B and the children from A, then a style LoRA on A.

    python -m demo.training.train a --tarballs FOLDER         # from scratch, Noto Emoji
    python -m demo.training.train b --tarballs FOLDER         # A further on Twemoji
    python -m demo.training.train lora --tarballs FOLDER      # rank 8 on frozen A, cyanotype
    python -m demo.training.train pruned --tarballs FOLDER    # A without its middle block, Noto
    python -m demo.training.train deepened --tarballs FOLDER  # A with a block more, Noto

Run it in the repository's root, in the environment that holds the package `comfyui` (see data.py
for the tarballs). Times on a shared machine of 2 CPU cores, no GPU: a 612 s; b 725 s, lora
610 s, pruned 230 s and deepened 343 s on one thread each, with other work running.
"""

import argparse
import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from demo.emoji.code import PatchCode
from demo.emoji.names import NAMES
from demo.emoji.prompt import encode_names
from demo.training.children import CHILDREN, child_of
from demo.training.data import VENDORS, cyanotype, fit_code, on_white, read_emoji
from demo.training.flow import flow_loss, process_in
from demo.training.model import MODELS, Lora, build_model, load_model, save_model

CHECKPOINTS = {
    "a": MODELS / "emoji_a.safetensors",
    "b": MODELS / "emoji_b.safetensors",
    "pruned": MODELS / "emoji_a_pruned.safetensors",
    "deepened": MODELS / "emoji_a_deepened.safetensors",
}
LORA_FILE = MODELS / "emoji_style_lora.safetensors"


@dataclass(frozen=True)
class Recipe:
    """Steps of 64 pictures at a peak learning rate, AdamW, cosine decay after 100 steps."""

    steps: int
    rate: float
    seed: int
    weight_decay: float = 0.0
    batch: int = 64
    average: float = 0.998  # of the moving average that is saved


RECIPES = {
    "a": Recipe(steps=4000, rate=1e-3, seed=1),
    "b": Recipe(steps=1500, rate=4e-4, seed=2),
    "lora": Recipe(steps=1200, rate=2e-3, seed=3),
    "pruned": Recipe(steps=600, rate=6e-4, seed=4),
    "deepened": Recipe(steps=600, rate=2e-3, seed=5),
}


@dataclass(frozen=True)
class Task:
    """All pictures to learn, a row per prompt: latents in the model's space, and their codes."""

    latents: torch.Tensor
    context: torch.Tensor
    pooled: torch.Tensor

    @classmethod
    def of(cls, pictures: torch.Tensor, code: PatchCode, prompts: Sequence[str] = NAMES) -> "Task":
        return cls(process_in(code.encode(pictures)), *encode_names(list(prompts)))

    def loss(
        self, model: nn.Module, rows: torch.Tensor, generator: torch.Generator
    ) -> torch.Tensor:
        """Loss of v on some rows of the task."""
        latents, context, pooled = self.latents[rows], self.context[rows], self.pooled[rows]
        return flow_loss(model, latents, context, pooled, generator)

    @torch.no_grad()
    def held_out(self, model: nn.Module, repeats: int = 8) -> float:
        """Loss over all pictures under noises and times that no training run has drawn."""
        generator = torch.Generator().manual_seed(2**31)
        rows = torch.arange(len(self.latents))
        return sum(self.loss(model, rows, generator).item() for _ in range(repeats)) / repeats


def fit(model: nn.Module, trained: nn.Module, task: Task, recipe: Recipe) -> nn.Module:
    """Train the parameters of `trained`; return a copy of it with their moving averages.

    The two are the same for a checkpoint; a LoRA is trained through the model that it is on.
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    parameters = list(trained.parameters())
    averages = copy.deepcopy(trained)
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min(1, (step + 1) / 100) * (1 + math.cos(math.pi * step / recipe.steps)) / 2,
    )
    start, recent = time.monotonic(), 0.0
    for step in range(1, recipe.steps + 1):
        rows = torch.randperm(len(task.latents), generator=generator)[: recipe.batch]
        loss = task.loss(model, rows, generator)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average = min(recipe.average, step / (step + 10))
        with torch.no_grad():
            for mean, parameter in zip(averages.parameters(), parameters, strict=True):
                mean.lerp_(parameter, 1 - average)
        recent += (loss.item() - recent) / min(step, 100)
        if step % 100 == 0:
            print(f"{step:5d}  loss {recent:.4f}  {time.monotonic() - start:5.0f} s", flush=True)
    return averages.eval()


def beginning(which: str) -> nn.Module:
    """What training starts from: nothing for A, A for B, A's blocks for a child."""
    if which == "a":
        return build_model()
    a = load_model(CHECKPOINTS["a"])
    return child_of(a, which) if which in CHILDREN else a


def train_checkpoint(which: str, task: Task) -> None:
    """Print the loss before and after."""
    recipe = RECIPES[which]
    torch.manual_seed(recipe.seed)
    model = beginning(which)
    before = task.held_out(model)
    averages = fit(model, model, task, recipe)
    save_model(averages, CHECKPOINTS[which])
    print(f"held-out loss {before:.4f} before, {task.held_out(averages):.4f} after")


def train_lora(task: Task) -> None:
    """The LoRA through frozen A; print the loss with and without it."""
    recipe = RECIPES["lora"]
    torch.manual_seed(recipe.seed)
    model = load_model(CHECKPOINTS["a"]).requires_grad_(False)
    before = task.held_out(model)
    lora = Lora(model)
    with lora.on(model):
        averages = fit(model, lora, task, recipe)
    averages.save(LORA_FILE)
    with averages.on(model):
        print(f"held-out loss {before:.4f} without, {task.held_out(model):.4f} with the LoRA")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=list(RECIPES))
    parser.add_argument("--tarballs", type=Path, default=Path(), help="folder of the two tarballs")
    options = parser.parse_args()
    emoji = {which: read_emoji(options.tarballs, vendor) for which, vendor in VENDORS.items()}
    pictures = {which: on_white(rgba) for which, rgba in emoji.items()}
    if options.what == "a":
        MODELS.mkdir(exist_ok=True)
        fit_code(torch.cat(list(pictures.values()))).save()
    code = PatchCode.load()
    if options.what == "lora":
        train_lora(Task.of(cyanotype(pictures["a"]), code))
    else:
        own = "b" if options.what == "b" else "a"
        train_checkpoint(options.what, Task.of(pictures[own], code))


if __name__ == "__main__":
    main()
