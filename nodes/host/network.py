"""A MODEL of the graph as the core's Network: it runs as the host's samplers run it."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import comfy.sampler_helpers
import comfy.samplers
import torch
from torch import nn

from ...prolora.errors import ProLoRAError
from ...prolora.recording.network import Network, Prompt
from .conditioning import conditioning_of
from .failures import memory_explained, misfits_explained, model_name
from .overwritten import overwritten_kept
from .training import as_normal, attention_with_gradients, load

# The conditioning of a prompt, as the model takes it: argument -> the host's wrapper of its value.
Conds = dict[str, Any]


def network_of(model: Any) -> Network:
    """The Network of a MODEL, with the LoRAs that patch it. The MODEL stays unchanged."""
    return Network(
        root=model.model.diffusion_model,
        layers=layers_of(model.model),
        denoise=partial(_denoise, model),
        output_scale=partial(_output_scale, model),
        noised=partial(_noised, model),
        again=overwritten_kept,
    )


def layers_of(module: nn.Module) -> dict[str, nn.Module]:
    """The key of a weight of two or more dimensions -> the layer that it belongs to."""
    weights = ((name, part, getattr(part, "weight", None)) for name, part in module.named_modules())
    return {
        f"{name}.weight": part
        for name, part, weight in weights
        if isinstance(weight, torch.Tensor) and len(weight.shape) > 1
    }


def _denoise(
    model: Any, noised: torch.Tensor, sigmas: torch.Tensor, prompts: Sequence[Prompt]
) -> torch.Tensor:
    """See Network. Prompts of the same shapes run as one batch."""
    parts, rows = [], []
    with memory_explained():
        load(model, noised.shape)
        x = as_normal(noised.to(model.load_device, torch.float32))
        levels = as_normal(sigmas.to(model.load_device, torch.float32))
        with misfits_explained(model, partial(_shapes, noised, prompts)):
            conds = [_conds(model, x[i : i + 1], prompt) for i, prompt in enumerate(prompts)]
            for group in _groups(conds):
                batch = x[group], levels[group], [conds[row] for row in group]
                parts.append(_apply(model, *batch))
                rows += group
    order = torch.tensor(rows, device=x.device).argsort()
    denoised = torch.cat(parts)[order].to(noised.device, torch.float32)
    _refuse_broken(model, denoised, sigmas)
    return denoised


def _conds(model: Any, x: torch.Tensor, prompt: Prompt) -> Conds:
    """What the host makes of a prompt for one row of latents."""
    entry = comfy.sampler_helpers.convert_cond(conditioning_of([prompt]))
    # The latents are those of an empty picture: an inpainting model paints all of it.
    encoded = comfy.samplers.encode_model_conds(
        model.model.extra_conds,
        entry,
        x.detach(),
        x.device,
        "positive",
        latent_image=torch.zeros_like(x),
        denoise_mask=None,
        seed=0,
    )
    conds = encoded[0]["model_conds"]
    # A host from June 2024 moves them to the device here, later ones in the model.
    return {
        name: cond.process_cond(batch_size=1, device=x.device, area=None)
        for name, cond in conds.items()
    }


def _groups(conds: Sequence[Conds]) -> list[list[int]]:
    """The rows that can run as one batch."""
    groups: list[list[int]] = []
    for row, cond in enumerate(conds):
        group = next((g for g in groups if _alike(conds[g[0]], cond)), None)
        if group is None:
            groups.append([row])
        else:
            group.append(row)
    return groups


def _alike(one: Conds, other: Conds) -> bool:
    """Whether they can be joined. The host would repeat texts of other lengths; we do not."""
    return one.keys() == other.keys() and all(
        one[name].can_concat(other[name]) and _size(one[name]) == _size(other[name]) for name in one
    )


def _size(cond: Any) -> Any:
    return cond.cond.shape if isinstance(cond.cond, torch.Tensor) else None


def _apply(
    model: Any, x: torch.Tensor, sigmas: torch.Tensor, conds: Sequence[Conds]
) -> torch.Tensor:
    arguments = {name: _normal(value) for name, value in comfy.samplers.cond_cat(conds).items()}
    options = dict(model.model_options.get("transformer_options", {}))
    options |= {"cond_or_uncond": [0], "sigmas": sigmas}
    if torch.is_grad_enabled():
        options |= attention_with_gradients()
    with overwritten_kept():
        return model.model.apply_model(x, sigmas, **arguments, transformer_options=options)


def _normal(value: Any) -> Any:
    if isinstance(value, list):
        return [_normal(part) for part in value]
    return as_normal(value) if isinstance(value, torch.Tensor) else value


def _output_scale(model: Any, sigmas: torch.Tensor) -> torch.Tensor:
    """How far the host's own formula moves the prediction for an output of 1."""
    sampling = model.get_model_object("model_sampling")
    at = sigmas.detach().float().cpu()
    nothing = torch.zeros(len(at), 1)
    of_one, of_none = (
        sampling.calculate_denoised(at, output, nothing) for output in (nothing + 1, nothing)
    )
    return (of_one - of_none).abs().reshape(-1).to(sigmas.device)


def _noised(
    model: Any, clean: torch.Tensor, noise: torch.Tensor, sigmas: torch.Tensor
) -> torch.Tensor:
    sampling = model.get_model_object("model_sampling")
    # A host from June 2024 does not spread the sigmas over the latents itself.
    spread = sigmas.reshape(-1, *(1 for _ in clean.shape[1:])).to(clean)
    return sampling.noise_scaling(spread, noise, clean)


def _refuse_broken(model: Any, denoised: torch.Tensor, sigmas: torch.Tensor) -> None:
    fine = denoised.detach().isfinite().flatten(1).all(1).cpu()
    if fine.all():
        return
    broken = ", ".join(f"{sigma:.4g}" for sigma in sigmas.detach().cpu()[~fine].tolist())
    raise ProLoRAError(
        f"{model_name(model)} predicts NaN or infinite values at sigma {broken}. Load it with "
        "another weight type (bf16 or fp32), and check that the conditioning belongs to it."
    )


def _shapes(noised: torch.Tensor, prompts: Iterable[Prompt]) -> str:
    return ", ".join([f"latents {_by(noised)}", *dict.fromkeys(_lines(prompts))])


def _lines(prompts: Iterable[Prompt]) -> Iterator[str]:
    for prompt in prompts:
        yield from (f"{name} {_by(tensor)}" for name, tensor in prompt.tensors.items())


def _by(tensor: torch.Tensor) -> str:
    return " x ".join(map(str, tensor.shape)) or "1"
