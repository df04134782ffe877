"""What a source answers on noised latents: the derivatives that a refinement is taught by."""

from itertools import pairwise

import torch

from ..errors import ProLoRAError
from ..progress import Progress
from .network import Network, Prompt

_AT_ONCE = 1 << 16  # numbers in the latents of a batch: one of SDXL at 1024 pixels


def derivative(latents: torch.Tensor, denoised: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """The slope of an Euler step, d latents / d sigma = (latents - denoised) / sigma, N x ...

    Karras et al., arXiv 2206.00364, Eq. 3.

    Args:
        sigmas: N, above 0.
    """
    return (latents - denoised) / along(sigmas, latents)


def at_once(latents: torch.Tensor) -> int:
    """How many latents run in one batch: small ones by the dozen, a large one alone."""
    return max(_AT_ONCE // latents[0].numel(), 1)


def along(numbers: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    """A number for each latent, in a shape that goes with them."""
    return numbers.to(latents).reshape(-1, *(1,) * (latents.ndim - 1))


@torch.no_grad()
def answers(
    network: Network,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    prompts: list[Prompt],
    progress: Progress,
    of: str,
) -> torch.Tensor:
    """The derivatives of a model at its own level, N x ..., float32, without guidance.

    Raises:
        ProLoRAError: a prediction is not finite.
    """
    found = []
    for start in range(0, len(latents), at_once(latents)):
        progress(start, len(latents), of)
        some = slice(start, start + at_once(latents))
        given = latents[some].float()
        denoised = network.denoise(given, sigmas[some], prompts[some]).cpu()
        found.append(_finite(derivative(given, denoised, sigmas[some]), sigmas[some], of))
    return torch.cat(found)


@torch.no_grad()
def steps(
    network: Network,
    latents: torch.Tensor,
    sigmas: torch.Tensor,
    next_sigmas: torch.Tensor,
    prompts: list[Prompt],
    negative: Prompt | None,
    cfg: float,
    small_steps: int,
    progress: Progress,
    of: str,
) -> torch.Tensor:
    """The mean derivatives on the way to another level, N x ..., float32, by small Euler steps.

    Args:
        next_sigmas: N, below the sigmas; 0 at the end of a schedule.
        negative: for guidance; None for none.
        cfg: the scale of the guidance.

    Raises:
        ProLoRAError: a prediction is not finite.
    """
    found = []
    for index in range(len(latents)):
        one = slice(index, index + 1)
        start = latents[one].float()
        way = torch.linspace(float(sigmas[index]), float(next_sigmas[index]), small_steps + 1)
        at = start
        for small, (sigma, following) in enumerate(pairwise(way)):
            progress(index * small_steps + small, len(latents) * small_steps, of)
            level = sigma.reshape(1)
            denoised = _guided(network, at, level, prompts[index], negative, cfg).cpu()
            slope = _finite(derivative(at, denoised, level), level, of)
            at = at + float(following - sigma) * slope
        found.append((at - start) / float(next_sigmas[index] - sigmas[index]))
    return torch.cat(found)


def _guided(
    network: Network,
    latents: torch.Tensor,
    sigma: torch.Tensor,
    prompt: Prompt,
    negative: Prompt | None,
    cfg: float,
) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans, arXiv 2207.12598)."""
    wanted = network.denoise(latents, sigma, [prompt])
    if negative is None or cfg == 1:
        return wanted
    unwanted = network.denoise(latents, sigma, [negative])
    return unwanted + cfg * (wanted - unwanted)


def _finite(found: torch.Tensor, sigma: torch.Tensor, of: str) -> torch.Tensor:
    finite = torch.isfinite(found).flatten(1).all(dim=1)
    if not finite.all():
        raise ProLoRAError(
            f"The prediction of {of} at sigma {float(sigma[~finite][0]):.4g} holds NaN or "
            "infinity. Load the model in another precision (fp32 or bf16), and see whether its "
            "pictures are whole."
        )
    return found
