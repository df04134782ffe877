"""The models: A, which begins as the demo's, and what has become of it in five ways.

All are of the demo's kind: a small MMDiT that ComfyUI loads (see demo/MODELS.md). A draws a kind of
emoji, as `food-fruit`, and its prompt leaves open which: unlike the demo's models, which have
memorised a picture a name, it has something to choose, and to gain from guidance.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from torch import nn

from benchmarks.evidence.results import Results
from demo.training.children import CHILDREN, child_of, source_key
from demo.training.model import DEPTH, load_model, save_model
from demo.training.train import CHECKPOINTS, Recipe, Task, fit
from prolora import load_checkpoint
from prolora.models.model import Model

from .effort import effort
from .sets import KINDS, of_kinds
from .tasks import CFG, FewStepsTask, PromptDropTask, TaughtTask, task_of

TRAJECTORIES = 1536


@dataclass(frozen=True)
class Kind:
    """How a model is made.

    Attributes:
        about: what it is, for a table.
        design: whose pictures it learns.
        begins: what training starts from.
        task: what it learns, of the pictures as a PromptDropTask.
    """

    about: str
    design: str
    recipe: Recipe
    begins: Callable[[], nn.Module]
    task: Callable[[PromptDropTask], Task] = lambda pictures: pictures


def _a() -> nn.Module:
    return load_model(path("a"))


MODELS = {
    "a": Kind(
        "the source, on Noto",
        "noto",
        Recipe(steps=3000, rate=1e-3, seed=21, batch=32),
        lambda: load_model(CHECKPOINTS["a"]),
    ),
    "tuned": Kind(
        "A trained further on Twemoji",
        "twemoji",
        Recipe(steps=1300, rate=5e-4, seed=22, batch=32),
        _a,
    ),
    "hard": Kind(
        "A trained further on EmojiOne, longer and at a higher rate",
        "emojione",
        Recipe(steps=2500, rate=1.7e-3, seed=23, batch=32),
        _a,
    ),
    "pruned": Kind(
        "A without its middle block, trained on A's answers",
        "noto",
        Recipe(steps=900, rate=8e-4, seed=24, batch=32),
        lambda: child_of(_a(), "pruned"),
        lambda pictures: TaughtTask(
            pictures.latents, pictures.context, pictures.pooled, _a().requires_grad_(False)
        ),
    ),
    "deepened": Kind(
        "A with a block more before the last, trained on",
        "noto",
        Recipe(steps=700, rate=2e-3, seed=25, batch=32),
        lambda: child_of(_a(), "deepened"),
    ),
    "distilled": Kind(
        "A at cfg 2.5 in four steps at cfg 1",
        "noto",
        Recipe(steps=1500, rate=5e-4, seed=26, batch=32),
        _a,
        lambda pictures: FewStepsTask.sampled(_a(), CFG, effort().of(TRAJECTORIES), seed=26),
    ),
}
SOURCE = "a"
TARGETS = tuple(name for name in MODELS if name != SOURCE)
DISTILLED = "distilled"


def path(name: str) -> Path:
    return effort().folder / "models" / f"{name}.safetensors"


@cache
def network(name: str) -> nn.Module:
    """The model as a torch module, frozen."""
    return load_model(path(name)).requires_grad_(False)


@cache
def model(name: str) -> Model:
    """The model as the core has it."""
    return load_checkpoint(path(name))


def drift(name: str) -> float:
    """Mean of ||W_t - W_s|| / ||W_s|| over the matrices of both, those of the inserted block left
    out.
    """
    ours, theirs = network(name).state_dict(), network(SOURCE).state_dict()
    blocks = CHILDREN.get(name, tuple(range(DEPTH)))
    apart = []
    for key, weight in ours.items():
        source = theirs.get(source_key(key, blocks) or "")
        # The last block's context has fewer outputs, so another block's may not fit it.
        if weight.ndim == 2 and source is not None and source.shape == weight.shape:
            apart.append(float((weight - source).norm() / source.norm()))
    return sum(apart) / len(apart)


def results() -> Results:
    """What each model took and has learned."""
    columns = ("pictures", "before", "loss", "drift", "seconds")
    return Results(effort().results / "fidelity_models.csv", ("model",), columns)


def train(name: str) -> None:
    """Trains a model, saves it, and notes what it took and has learned."""
    kind, start = MODELS[name], time.process_time()
    torch.manual_seed(kind.recipe.seed)
    pictures = of_kinds(kind.design, KINDS)
    plain = task_of(pictures)
    task = kind.task(PromptDropTask(plain.latents, plain.context, plain.pooled))
    beginning = kind.begins()
    before = plain.held_out(beginning)
    averages = fit(beginning, beginning, task, effort().recipe(kind.recipe))
    path(name).parent.mkdir(parents=True, exist_ok=True)
    save_model(averages, path(name))
    results().add(
        name,
        pictures=len(pictures),
        before=before,
        loss=plain.held_out(averages),
        drift=0.0 if name == SOURCE else drift(name),
        seconds=time.process_time() - start,
    )


def train_missing(names: tuple[str, ...] = tuple(MODELS)) -> None:
    for name in names:
        if not path(name).is_file():
            train(name)
