"""Train the LoRAs of the table of evidence: the source LoRAs, and retrained ones as their ceiling.

    python -m demo.training.evidence_loras --tarballs FOLDER

Every style on every model with every seed, all by one recipe, each through the model that it is
for and on that model's own pictures. A file that is there is not trained again, and a model whose
checkpoint is not there (see `kinds.py`) is left out. A LoRA takes about a minute of one CPU core.
The losses are added to `losses.csv` beside the files.
"""

import argparse
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

import torch

from demo.emoji.code import PatchCode
from demo.emoji.names import NAMES
from demo.training.data import STYLES, VENDORS, on_white, read_emoji
from demo.training.kinds import EVIDENCE, KIND_CHECKPOINTS, read_kinds
from demo.training.model import Lora, load_model
from demo.training.train import CHECKPOINTS, Recipe, Task, fit

RECIPE = Recipe(steps=400, rate=1.5e-2, seed=0, batch=32, average=0.99)
SEEDS = (1, 2, 3)
MODELS = CHECKPOINTS | KIND_CHECKPOINTS


@dataclass(frozen=True)
class Job:
    """One LoRA to train."""

    model: str
    style: str
    seed: int

    @property
    def path(self) -> Path:
        return EVIDENCE / f"{self.model}_{self.style}_{self.seed}.safetensors"


@cache
def own_pictures(which: str, tarballs: Path) -> tuple[torch.Tensor, list[str]]:
    """The pictures [N, 3, 32, 32] that a model was trained on, and the prompt of each."""
    if which in KIND_CHECKPOINTS:
        return read_kinds(tarballs)
    vendor = VENDORS["b" if which == "b" else "a"]
    return on_white(read_emoji(tarballs, vendor)), NAMES


def style_task(which: str, style: str, tarballs: Path) -> Task:
    """A model's own pictures in the style."""
    pictures, prompts = own_pictures(which, tarballs)
    return Task.of(STYLES[style](pictures), PatchCode.load(), prompts)


def train(job: Job, tarballs: Path) -> None:
    """Train one LoRA, save it, and note the losses without and with it."""
    task = style_task(job.model, job.style, tarballs)
    torch.manual_seed(job.seed)
    model = load_model(MODELS[job.model]).requires_grad_(False)
    before, start = task.held_out(model), time.monotonic()
    lora = Lora(model)
    with lora.on(model):
        averages = fit(model, lora, task, dataclasses.replace(RECIPE, seed=job.seed))
    seconds = time.monotonic() - start
    averages.save(job.path)
    with averages.on(model):
        after = task.held_out(model)
    line = f"{job.path.stem},{before:.4f},{after:.4f},{seconds:.0f}"
    print(line, flush=True)
    with (EVIDENCE / "losses.csv").open("a", encoding="utf-8") as table:
        table.write(line + "\n")


def jobs(models: list[str], styles: list[str], seeds: list[int]) -> Iterator[Job]:
    """Those that are still to do; all of one seed come before the next seed."""
    for seed, model, style in product(seeds, models, styles):
        job = Job(model, style, seed)
        if MODELS[model].is_file() and not job.path.is_file():
            yield job


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tarballs", type=Path, default=Path(), help="folder of the two tarballs")
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--styles", nargs="+", choices=list(STYLES), default=list(STYLES))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    options = parser.parse_args()
    EVIDENCE.mkdir(parents=True, exist_ok=True)
    for job in jobs(options.models, options.styles, options.seeds):
        train(job, options.tarballs)


if __name__ == "__main__":
    main()
