"""What contradicts itself in a recording whose parts are all there: nobody's file is trusted."""

from collections.abc import Iterator

import torch

from .network import Prompt
from .recording import ReadOut, Recording

_DTYPES = (torch.float16, torch.float32)


def problems(found: Recording) -> Iterator[str]:
    """The first of them says why a file is refused."""
    count = len(found.latents) if found.latents.ndim else 0
    answers = (found.latents, found.derivatives, found.derivatives_without)
    levels = [found.sigmas] + ([] if found.next_sigmas is None else [found.next_sigmas])
    indices = (found.prompt_of, found.sample_of)
    if found.latents.ndim < 3 or not found.latents.numel():
        yield "its latents are none"
    elif any(answer.shape != found.latents.shape for answer in answers):
        yield "its latents and their answers are not of one number and shape"
    elif found.noising.shape != (count, 2) or any(
        tensor.shape != (count,) for tensor in (*levels, *indices)
    ):
        yield "its latents and their levels are not of one number"
    elif not all(_are_numbers(tensor) for tensor in (*answers, *levels, found.noising)):
        yield "it holds NaN or infinity, or what is no number"
    elif not (found.sigmas > 0).all():
        yield "it holds latents without noise"
    elif found.next_sigmas is not None and not _lead_down(found.sigmas, found.next_sigmas):
        yield "its levels do not fall"
    elif not found.prompts or not _count(found.prompt_of, len(found.prompts)):
        yield "its latents have prompts that are not there"
    elif not _count(found.sample_of, count):
        yield "its latents have samples that are not there"
    for prompt in found.prompts:
        yield from _problems_of_prompt(prompt)
    for group, examples in ((found.readouts, count), (found.text_readouts, len(found.prompts))):
        for module, readout in group.items():
            if not _fits(readout, examples):
                yield f"the read-outs of {module} contradict each other"
            elif not _are_numbers(readout.values) or not _down_is_whole(readout):
                yield f"the read-outs of {module} hold NaN or infinity"


def _problems_of_prompt(prompt: Prompt) -> Iterator[str]:
    for name, tensor in prompt.tensors.items():
        if tensor.ndim > 1 and len(tensor) != 1:
            yield f"the {name} of a prompt is not of one prompt"
        elif tensor.is_complex() or not torch.isfinite(tensor.float()).all():
            yield f"the {name} of a prompt holds NaN or infinity"


def _fits(readout: ReadOut, examples: int) -> bool:
    """Whether its parts are of one number, and of examples and positions that can be."""
    numbers = (readout.examples, readout.positions, readout.counts)
    if readout.values.ndim != 2 or not all(map(_are_integers, numbers)):
        return False
    count = len(readout.values)
    return (
        readout.values.numel() > 0
        and all(tensor.shape == (count,) for tensor in numbers)
        and _count(readout.examples, examples)
        and _count(readout.positions, int(readout.counts.max()) if count else 0)
        and bool((readout.positions < readout.counts).all())
        and bool((readout.examples[1:] >= readout.examples[:-1]).all())
    )


def _down_is_whole(readout: ReadOut) -> bool:
    down = readout.down
    if down is None:
        return True
    return down.ndim == 2 and len(down) == readout.values.shape[1] and _are_numbers(down)


def _are_numbers(tensor: torch.Tensor) -> bool:
    return tensor.dtype in _DTYPES and bool(torch.isfinite(tensor.float()).all())


def _are_integers(tensor: torch.Tensor) -> bool:
    return tensor.dtype in (torch.int32, torch.int64)


def _lead_down(sigmas: torch.Tensor, following: torch.Tensor) -> bool:
    return bool((following < sigmas).all() and (following >= 0).all())


def _count(numbers: torch.Tensor, end: int) -> bool:
    """Whether they count something that has so many."""
    return _are_integers(numbers) and bool((numbers >= 0).all() and (numbers < end).all())
