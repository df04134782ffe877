"""What is measured of a moved LoRA, on noised maps of difficulties that no LoRA was trained on."""

from collections.abc import Sequence
from functools import cache

import torch

from prolora.adapters import Adapter

from .loras import Job, as_trained
from .maps import CHANGES, answers, asked
from .models import network, worn
from .rows import Case

COLUMNS = ("loss", "error", "cosine", "retention", "own")


def measured(
    case: Case, adapters: Sequence[Adapter] | None, beside: Job | None = None
) -> dict[str, float]:
    """All columns, of the target with adapters; of the target without them the loss alone.

    With E = f(with the LoRA) - f(without), on the same noised maps:

    - loss: mean squared difference from the target's own answer, changed. Lower is better.
    - error, cosine, retention: ||E_t - E_s|| / ||E_s||, the cosine of both, and
      <E_t, E_s> / ||E_s||^2: 1 for the same effect, negative for the opposite one.
    - own: how much of what tells the target from the source is still there under the change:
      <D, C> / ||C||^2, with D the difference of both with their LoRAs, and C of both answers,
      changed by hand. 1 if all of it is, 0 if the target does what the source would.

    Args:
        beside: the LoRA whose effect E_s is, on its own version; the moved one unless it is given.
    """
    change = CHANGES[case.change]
    plain = asked(case.target, True).answers
    found = _answers(case.target, case.target, adapters)
    loss = float((found - change(plain)).square().mean())
    if adapters is None:
        return {"loss": loss}
    lora = beside or case.lora
    theirs_with, theirs_plain = _with_lora(lora, case.target), _plain(lora.version, case.target)
    ours, theirs = found - plain, theirs_with - theirs_plain
    columns = {
        "loss": loss,
        "error": float((ours - theirs).norm() / theirs.norm()),
        "cosine": _dot(ours, theirs) / max(float(ours.norm() * theirs.norm()), 1e-12),
        "retention": _dot(ours, theirs) / _dot(theirs, theirs),
    }
    if beside is None:
        kept = change(plain) - change(theirs_plain)
        columns["own"] = _dot(found - theirs_with, kept) / _dot(kept, kept)
    return columns


def _dot(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum())


def _answers(version: str, maps_of: str, adapters: Sequence[Adapter] | None = None) -> torch.Tensor:
    """A version's answers on the noised maps that are held out of one."""
    given = asked(maps_of, True)
    with worn(version, adapters):
        return answers(network(version), given.noised, given.sigmas, given.difficulties)


@cache
def _plain(version: str, maps_of: str) -> torch.Tensor:
    return _answers(version, maps_of)


@cache
def _with_lora(lora: Job, maps_of: str) -> torch.Tensor:
    return _answers(lora.version, maps_of, as_trained(lora))
