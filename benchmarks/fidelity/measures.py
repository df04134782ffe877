"""What is measured of a LoRA on a target: its loss, what it does, and what the target draws."""

from collections.abc import Sequence
from functools import cache

import torch
from torch import nn

from demo.emoji.code import PatchCode
from demo.emoji.prompt import encode_names
from demo.training.flow import euler, noise_levels, process_out, shifted
from prolora.adapters import Adapter
from prolora.evaluation.mmd import mmd_squared

from . import sets
from .descriptor import Looked, apart, look_at
from .loras import own_steps, pictures
from .models import DISTILLED, network
from .rows import Case, as_trained
from .tasks import CFG, FEW_STEPS, Guided, task_of
from .worn import Worn

REPEATS = 2  # of every held-out picture, under other noise, in a loss
NOISED = 128  # held-out latents on which two effects are compared
PER_PROMPT = 2  # pictures of a prompt
CONCEPT_PICTURES = 24
STEPS = 10  # of a picture that is judged

COLUMNS = (
    *("loss", "error", "cosine", "retention"),
    *("mmd", "style", "subject", "similarity", "diversity", "kept"),
)


def measured(case: Case, adapters: Sequence[Adapter] | None) -> dict[str, float]:
    """All columns that make sense for a case; None for the target without a LoRA.

    What is seen in pictures is there for subjects that are drawn, see loras.Subject.

    - loss: on held-out pictures, or, of pictures in few steps, their distance to those that are
      wanted from the same noise. Lower is better.
    - error, cosine, retention: the effect E_t = f(with) - f(without) on the target beside the
      LoRA's effect E_s on the source, on the same held-out noised latents: ||E_t - E_s|| / ||E_s||,
      their cosine, and <E_t, E_s> / ||E_s||^2, which is 1 for the same effect and negative for the
      opposite one.
    - mmd: of style descriptors of drawn and held-out pictures; style: the share of pictures whose
      style descriptor is nearer to the mean of the style's real pictures than to that of what the
      target draws without a LoRA.
    - subject: the share of pictures that are of what the prompt says; similarity: of a concept, the
      mean cosine to its held-out pictures.
    - diversity: how different the pictures of one prompt are.
    - kept: cosine of what is drawn with and without the LoRA from the same noise, for the prompts
      of the target's own.
    """
    running = network(case.target)
    with Worn(case.target, adapters or ()).on(running):
        found = {"loss": _loss(case, running)}
        answers = _answers(case, running)
        drawn = _drawn(case, running) if case.subject.is_drawn else None
    if adapters is not None:
        ours, theirs = answers - _own_answers(case), _source_effect(case)
        size = float(theirs.square().sum())
        product = float((ours * theirs).sum())
        found["error"] = float((ours - theirs).norm()) / size**0.5
        found["cosine"] = product / (float(ours.norm()) * size**0.5 or 1.0)
        found["retention"] = product / size
    return found | (_looks(case, drawn) if drawn is not None else {})


# --- losses -------------------------------------------------------------------------------------


def loss(case: Case, adapters: Sequence[Adapter] | None) -> float:
    """See measured."""
    running = network(case.target)
    with Worn(case.target, adapters or ()).on(running):
        return _loss(case, running)


def _loss(case: Case, running: nn.Module) -> float:
    if case.subject.kind == "fast":
        return own_steps(case.target, True).distance(running)
    if case.target == DISTILLED:
        noise, prompts, wanted = _wanted(case)
        *_, found = euler(running, noise, *prompts, FEW_STEPS)
        return float((found - wanted).square().mean())
    return task_of(pictures(case.subject)[1]).held_out(running, REPEATS)


@cache
def _wanted(case: Case) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """Noise, prompts, and what the source draws with its LoRA, guided, in many steps."""
    names = _prompts(case.subject.kind, case.subject.name) * 2
    generator = torch.Generator().manual_seed(2**31)
    noise, prompts = torch.randn(len(names), 16, 8, 8, generator=generator), encode_names(names)
    source = network(case.source.model)
    with Worn(case.source.model, as_trained(case.source)).on(source):
        *_, latents = euler(Guided(source, CFG), noise, *prompts, 2 * STEPS)
    return noise, prompts, latents


# --- effects ------------------------------------------------------------------------------------

Inputs = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


@cache
def _inputs(kind: str, case: Case) -> Inputs:
    """Held-out noised latents, their timesteps and prompts; at a few-step target's own levels."""
    generator = torch.Generator().manual_seed(2**31 + 1)
    if kind == "fast":
        task = own_steps(case.source.model, True)
        clean = task.latents[:, -1]
    else:
        task = task_of(pictures(case.subject)[1])
        clean = task.latents
    rows = torch.arange(NOISED) % len(clean)
    time = (torch.arange(NOISED) + torch.rand(NOISED, generator=generator)) / NOISED
    sigma = shifted(time[torch.randperm(NOISED, generator=generator)])
    if kind == "fast" or case.target == DISTILLED:
        sigma = noise_levels(FEW_STEPS)[:-1].repeat(NOISED // FEW_STEPS)
    noise = torch.randn(NOISED, *clean.shape[1:], generator=generator)
    noised = torch.lerp(clean[rows], noise, sigma.view(-1, 1, 1, 1))
    return noised, sigma * 1000, task.context[rows], task.pooled[rows]


@torch.no_grad()
def _answers(case: Case, running: nn.Module) -> torch.Tensor:
    latents, timesteps, context, pooled = _inputs(case.subject.kind, case)
    return running(latents, timesteps, context=context, y=pooled)


@cache
def _own_answers(case: Case) -> torch.Tensor:
    return _answers(case, network(case.target))


@cache
def _source_effect(case: Case) -> torch.Tensor:
    source = network(case.source.model)
    with Worn(case.source.model, as_trained(case.source)).on(source):
        found = _answers(case, source)
    return found - _answers(case, source)


# --- pictures -----------------------------------------------------------------------------------


def _prompts(kind: str, name: str) -> list[str]:
    """Those of the kinds; for a concept its own before them."""
    kinds = list(sets.KINDS) * PER_PROMPT
    return [name] * CONCEPT_PICTURES + kinds if kind == "concept" else kinds


@torch.no_grad()
def draw(running: nn.Module, names: list[str], few_steps: bool, seed: int) -> torch.Tensor:
    """Pictures N x 3 x 32 x 32, from the same noise for every model: guided, or in four steps."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(names), 16, 8, 8, generator=generator)
    drawing, steps = (running, FEW_STEPS) if few_steps else (Guided(running, CFG), STEPS)
    *_, latents = euler(drawing, noise, *encode_names(names), steps)
    return PatchCode.load().decode(process_out(latents))


def _drawn(case: Case, running: nn.Module) -> Looked:
    few_steps = case.target == DISTILLED or case.subject.kind == "fast"
    names = _prompts(case.subject.kind, case.subject.name)
    return look_at(draw(running, names, few_steps, seed=2**31 + 2))


@cache
def _own_drawn(case: Case) -> Looked:
    return _drawn(case, network(case.target))


@cache
def _means() -> tuple[list[str], torch.Tensor]:
    """Prompts, and the mean of what is seen in their real pictures in every design, of length 1."""
    names = [*sets.KINDS, *sets.CONCEPTS]
    means = []
    for name in names:
        if name in sets.KINDS:
            seen = [sets.of_kinds(d, [name]).pictures for d in ("noto", "twemoji", "flat")]
        else:
            seen = [sets.of_concept(name)[0].pictures]
        means.append(torch.cat([look_at(real).subject for real in seen]).mean(dim=0))
    return names, nn.functional.normalize(torch.stack(means), dim=1)


def _looks(case: Case, drawn: Looked) -> dict[str, float]:
    """What the descriptor says of the pictures; see measured."""
    subject, own = case.subject, _own_drawn(case)
    asked = _prompts(subject.kind, subject.name)
    names, means = _means()
    said = [names[i] for i in (drawn.subject @ means.T).argmax(dim=1).tolist()]
    ours = slice(0, CONCEPT_PICTURES) if subject.kind == "concept" else slice(0, len(asked))
    theirs = slice(CONCEPT_PICTURES, None) if subject.kind == "concept" else slice(0, None)
    right = [a == b for a, b in zip(asked[ours], said[ours], strict=True)]
    found = {
        "subject": sum(right) / len(right),
        "diversity": _diversity(drawn, asked),
        "kept": float((drawn.subject[theirs] * own.subject[theirs]).sum(dim=1).mean()),
    }
    if subject.kind == "concept":
        real = look_at(pictures(subject)[1].pictures).subject
        found["similarity"] = float((drawn.subject[ours] @ real.T).mean())
    if subject.kind == "style":
        real = look_at(pictures(subject)[1].pictures)
        found["mmd"] = mmd_squared(drawn.style, real.style)
        theirs_mean, own_mean = real.style.mean(dim=0), own.style.mean(dim=0)
        nearer = (drawn.style - theirs_mean).norm(dim=1) < (drawn.style - own_mean).norm(dim=1)
        found["style"] = float(nearer.float().mean())
    return found


def _diversity(drawn: Looked, asked: list[str]) -> float:
    """The mean difference of two pictures of one prompt."""
    pairs = [
        (i, j)
        for i in range(len(asked))
        for j in range(i + 1, min(i + 40, len(asked)))
        if asked[i] == asked[j]
    ][:96]
    first, second = (torch.tensor(side) for side in zip(*pairs, strict=True))

    def of(rows: torch.Tensor) -> Looked:
        return Looked(drawn.subject, drawn.style, drawn.look, tuple(x[rows] for x in drawn.stages))

    return float(apart(of(first), of(second)).mean())
