"""Latents and noise levels by the host's own samplers and schedules."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import torch

from ...prolora.errors import ProLoRAError
from ...prolora.recording.network import Prompt
from .conditioning import conditioning_of, prompts_of
from .failures import memory_explained, misfits_explained

# How many prompts are sampled at once, at most.
_AT_ONCE = 8


def samplers() -> list[str]:
    """The names that a KSampler offers."""
    return list(comfy.samplers.KSampler.SAMPLERS)


def schedulers() -> list[str]:
    """The names that a KSampler offers."""
    return list(comfy.samplers.KSampler.SCHEDULERS)


def latent_format(model: Any) -> tuple[str, int]:
    """The class of the latents that a MODEL computes with, and their channels."""
    known = model.get_model_object("latent_format")
    return type(known).__name__, known.latent_channels


def one_latent(latent: dict[str, Any]) -> dict[str, Any]:
    """The first of a batch: it gives the size."""
    samples = latent["samples"]
    is_plain = isinstance(samples, torch.Tensor) and not getattr(samples, "is_nested", False)
    return {**latent, "samples": samples[:1]} if is_plain else latent


def latent_shape(model: Any, latent: dict[str, Any]) -> tuple[int, ...]:
    """The shape of one latent, without its batch, as the MODEL samples it.

    Raises:
        ProLoRAError: it cannot be recorded.
    """
    return tuple(_latents(model, latent).shape[1:])


def levels(model: Any, count: int, generator: torch.Generator) -> torch.Tensor:
    """Sigmas spread over the model's schedule, from noise to picture: random, one in each part.

    They are read off the table that the host's schedulers use. Its percent_to_sigma says the same,
    but leaves out the shift of a flow model in June 2024.
    """
    table = model.get_model_object("model_sampling").sigmas.detach().float().cpu()
    done = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    place = (1 - done) * (len(table) - 1)
    below = place.long().clamp(max=len(table) - 2)
    return torch.lerp(table[below], table[below + 1], place - below)


def sample(
    model: Any,
    prompt_conditioning: Sequence[Sequence[Any]],
    negative_conditioning: Sequence[Sequence[Any]],
    latent: dict[str, Any],
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    callback: Callable[[int, int, str], None] | None = None,
) -> torch.Tensor:
    """Latents in the model's space, one row for each prompt, float32 on the CPU.

    Prompts of the same shapes are sampled together; each has the noise of its own row.

    Args:
        model, prompt_conditioning, latent: the host's. The latent has a row for each prompt, or one
            for all.
        negative_conditioning: a prompt for each prompt, or one for all.
        seed, steps, cfg, sampler_name, scheduler: those of a KSampler.
        callback: is told the steps that are done, of how many, and what is done.

    Raises:
        ProLoRAError: the prompts, negatives and latents do not fit each other or the model.
    """
    prompts = prompts_of(prompt_conditioning)
    negatives = _for_each(prompts_of(negative_conditioning), len(prompts), "negative prompts")
    samples = _latents(model, latent)
    samples = torch.cat(_for_each(list(samples.split(1)), len(prompts), "latents"))
    noise = comfy.sample.prepare_noise(samples, seed)
    settings = steps, cfg, sampler_name, scheduler
    told = _Told(callback, len(prompts))
    found: dict[int, torch.Tensor] = {}
    shape = " x ".join(map(str, samples.shape))
    with memory_explained(), misfits_explained(model, lambda: f"latents {shape}"):
        for rows in _groups(list(zip(prompts, negatives, strict=True))):
            told.rows = len(rows)
            sampled = comfy.sample.sample(
                model,
                noise[rows],
                *settings,
                _joined([prompts[row] for row in rows]),
                _joined([negatives[row] for row in rows]),
                samples[rows],
                callback=told,
                disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
                seed=seed,
            )
            told.before += len(rows)
            in_model = model.model.process_latent_in(sampled.float()).cpu()
            found |= dict(zip(rows, in_model, strict=True))
    return torch.stack([found[row] for row in range(len(prompts))])


class _Told:
    """What the host calls after a step: it passes on how far all prompts are, and stops for Cancel.

    Attributes:
        before: prompts that are done.
        rows: prompts that are being sampled.
    """

    def __init__(self, callback: Callable[[int, int, str], None] | None, count: int) -> None:
        self._callback, self._count = callback, count
        self.before = self.rows = 0

    def __call__(self, step: int, x0: Any, x: Any, total: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if self._callback is not None:
            done = self.before * total + (step + 1) * self.rows
            self._callback(done, self._count * total, "sampling")


def _latents(model: Any, latent: dict[str, Any]) -> torch.Tensor:
    samples = latent["samples"]
    if not isinstance(samples, torch.Tensor) or getattr(samples, "is_nested", False):
        raise ProLoRAError(
            "These latents hold several streams (picture and sound), which cannot be recorded. "
            "Connect an empty latent of pictures."
        )
    if "noise_mask" in latent:
        raise ProLoRAError(
            "The latent has a mask, which cannot be recorded. Connect an empty latent."
        )
    # 0.33.0 makes empty latents fit the model's scale; in June 2024 only the channels.
    fix = comfy.sample.fix_empty_latent_channels
    takes = inspect.signature(fix).parameters
    options = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    return fix(model, samples, **{key: latent.get(key) for key in options if key in takes})


def _for_each(items: list[Any], count: int, what: str) -> list[Any]:
    if len(items) not in (1, count):
        raise ProLoRAError(
            f"There are {count} prompts, but {len(items)} {what}. Give one for all or one for each."
        )
    return items * (count // len(items))


def _groups(pairs: Sequence[tuple[Prompt, Prompt]]) -> list[list[int]]:
    """The rows that are sampled together: their prompts and negatives can be joined."""
    groups: list[list[int]] = []
    open_group: dict[Any, list[int]] = {}
    for row, pair in enumerate(pairs):
        kind = tuple(map(_kind, pair))
        group = open_group.get(kind)
        if group is None or len(group) == _AT_ONCE or not _can_join(pair):
            group = open_group[kind] = []
            groups.append(group)
        group.append(row)
    return groups


def _kind(prompt: Prompt) -> Any:
    shapes = sorted((name, tuple(tensor.shape)) for name, tensor in prompt.tensors.items())
    return tuple(shapes), tuple(sorted(prompt.values.items(), key=str))


def _can_join(pair: tuple[Prompt, Prompt]) -> bool:
    return all(tensor.ndim > 1 for prompt in pair for tensor in prompt.tensors.values())


def _joined(prompts: Sequence[Prompt]) -> list[list[Any]]:
    """A conditioning of one entry, with a row for each prompt."""
    if len(prompts) == 1:
        return conditioning_of(prompts)
    tensors = {key: torch.cat([p.tensors[key] for p in prompts]) for key in prompts[0].tensors}
    return conditioning_of([Prompt(tensors, prompts[0].values)])
