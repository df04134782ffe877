"""Recordings as .safetensors files: NAME.recording.safetensors, beside the LoRA."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..errors import ProLoRAError
from ..files.safetensors import read_safetensors, write_safetensors
from ..models import outline
from .network import Prompt
from .recording import ReadOut, Recording

SUFFIX = ".recording.safetensors"
VERSION = "1"
_VERSION, _HEAD = "prolora_recording", "prolora_recording_head"
_TENSORS = (
    *("latents", "sigmas", "prompt_of", "sample_of"),
    *("derivatives", "derivatives_without"),
)
_PARTS = ("examples", "positions", "values", "down")


def write_recording(recording: Recording, path: Path) -> None:
    """Writes a recording, whole or not at all.

    Raises:
        ProLoRAError: see write_safetensors.
    """
    tensors = {name: getattr(recording, name) for name in _TENSORS}
    if recording.next_sigmas is not None:
        tensors["next_sigmas"] = recording.next_sigmas
    for index, prompt in enumerate(recording.prompts):
        tensors |= {f"prompts.{index}.{key}": tensor for key, tensor in prompt.tensors.items()}
    for group in ("readouts", "text_readouts"):
        for module, readout in getattr(recording, group).items():
            parts = {part: getattr(readout, part) for part in _PARTS}
            tensors |= {f"{group}.{part}.{module}": t for part, t in parts.items() if t is not None}
    head = {
        "lora": recording.lora,
        "source": outline.as_json(recording.source),
        "latent_format": recording.latent_format,
        "prompts": [{"text": p.text, "values": dict(p.values)} for p in recording.prompts],
        "left_out": dict(recording.left_out),
        "settings": dict(recording.settings),
    }
    write_safetensors(tensors, path, {_VERSION: VERSION, _HEAD: json.dumps(head)})


def read_recording(path: Path) -> Recording:
    """Reads a recording.

    Raises:
        ProLoRAError: the file is missing, damaged, cut, of a later version or no recording.
    """
    tensors, metadata = read_safetensors(path)
    version = metadata.get(_VERSION)
    if version is None:
        raise ProLoRAError(
            f"{path.name} is no recording. Choose a file that Save Recording wrote (*{SUFFIX})."
        )
    if version != VERSION:
        raise ProLoRAError(
            f"{path.name} is a recording of version {version}, and this ProLoRA reads version "
            f"{VERSION}. Update ProLoRA, or record the LoRA again."
        )
    try:
        found = _parsed(tensors, json.loads(metadata[_HEAD]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _refuse(path, f"{type(error).__name__}: {error}")
    for problem in _problems(found):
        _refuse(path, problem)
    return found


def _parsed(tensors: Mapping[str, torch.Tensor], head: Mapping[str, Any]) -> Recording:
    prompts = tuple(
        Prompt(dict(_beginning(tensors, f"prompts.{index}.")), prompt["values"], prompt["text"])
        for index, prompt in enumerate(head["prompts"])
    )
    return Recording(
        lora=str(head["lora"]),
        source=outline.from_json(head["source"]),
        latent_format=str(head["latent_format"]),
        prompts=prompts,
        next_sigmas=tensors.get("next_sigmas"),
        readouts=_readouts(tensors, "readouts"),
        text_readouts=_readouts(tensors, "text_readouts"),
        left_out={str(name): str(why) for name, why in head["left_out"].items()},
        settings={str(name): str(value) for name, value in head["settings"].items()},
        **{name: tensors[name] for name in _TENSORS},
    )


def _readouts(tensors: Mapping[str, torch.Tensor], group: str) -> dict[str, ReadOut]:
    parts = {part: dict(_beginning(tensors, f"{group}.{part}.")) for part in _PARTS}
    return {
        module: ReadOut(
            parts["examples"][module],
            parts["positions"][module],
            values,
            parts["down"].get(module),
        )
        for module, values in parts["values"].items()
    }


def _beginning(
    tensors: Mapping[str, torch.Tensor], start: str
) -> Iterator[tuple[str, torch.Tensor]]:
    for key, tensor in tensors.items():
        if key.startswith(start):
            yield key.removeprefix(start), tensor


def _problems(found: Recording) -> Iterator[str]:
    """What contradicts itself in a recording whose parts are all there."""
    count = len(found.latents)
    numbers = (found.latents, found.sigmas, found.derivatives, found.derivatives_without)
    of_each = [*numbers, found.prompt_of, found.sample_of]
    if found.next_sigmas is not None:
        of_each.append(found.next_sigmas)
    if not count or any(len(tensor) != count for tensor in of_each):
        yield "its latents and their answers are not of one number"
    elif not all(torch.isfinite(tensor.float()).all() for tensor in numbers):
        yield "it holds NaN or infinity"
    elif not (found.sigmas > 0).all():
        yield "it holds latents without noise"
    elif not found.prompts or not _within(found.prompt_of, len(found.prompts)):
        yield "its latents have prompts that are not there"
    for group, examples in ((found.readouts, count), (found.text_readouts, len(found.prompts))):
        for module, readout in group.items():
            yield from _problems_of(module, readout, examples)


def _problems_of(module: str, readout: ReadOut, examples: int) -> Iterator[str]:
    sizes = {len(readout.examples), len(readout.positions), len(readout.values)}
    if len(sizes) > 1 or readout.values.ndim != 2 or not _within(readout.examples, examples):
        yield f"the read-outs of {module} contradict each other"
    elif not torch.isfinite(readout.values).all():
        yield f"the read-outs of {module} hold NaN or infinity"
    elif readout.down is not None and len(readout.down) != readout.values.shape[1]:
        yield f"the read-outs of {module} contradict each other"


def _within(numbers: torch.Tensor, end: int) -> bool:
    return bool((numbers >= 0).all() and (numbers < end).all())


def _refuse(path: Path, problem: str) -> NoReturn:
    raise ProLoRAError(
        f"{path.name} is not a whole recording: {problem}. It was cut or damaged: copy it "
        "again, or record the LoRA again."
    )
