"""Recordings as .safetensors files: NAME.recording.safetensors, beside the LoRA."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..errors import ProLoRAError, one_line
from ..files.json_text import parse_json
from ..files.safetensors import read_safetensors, write_safetensors
from ..models import outline
from .checks import problems
from .network import Prompt, Value
from .recording import ReadOut, Recording

SUFFIX = ".recording.safetensors"
VERSION = "1"
_VERSION, _HEAD = "prolora_recording", "prolora_recording_head"
_TENSORS = (
    *("latents", "sigmas", "prompt_of", "sample_of", "noising"),
    *("derivatives", "derivatives_without"),
)
_PARTS = ("examples", "positions", "counts", "values", "down")
# What a head raises that is no recording's.
_NO_HEAD = (KeyError, TypeError, ValueError, AttributeError, OverflowError)


def write_recording(recording: Recording, path: Path, overwrite: bool = True) -> None:
    """Writes a recording, whole or not at all.

    Raises:
        ProLoRAError: see atomic_write.
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
    write_safetensors(tensors, path, {_VERSION: VERSION, _HEAD: json.dumps(head)}, overwrite)


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
        found = _parsed(tensors, parse_json(metadata[_HEAD]))
    except KeyError as error:
        _refuse(path, f"it has no {one_line(error)}")
    except _NO_HEAD as error:
        _refuse(path, f"its head is damaged ({one_line(error)})")
    for problem in problems(found):
        _refuse(path, one_line(problem))
    return found


def _parsed(tensors: Mapping[str, torch.Tensor], head: Mapping[str, Any]) -> Recording:
    prompts = tuple(
        Prompt(
            dict(_beginning(tensors, f"prompts.{index}.")),
            {str(name): _value(value) for name, value in prompt["values"].items()},
            str(prompt["text"]),
        )
        for index, prompt in enumerate(head["prompts"])
    )
    source = outline.from_json(head["source"])
    return Recording(
        lora=str(head["lora"]),
        source=replace(
            source, name=one_line(source.name), architecture=one_line(source.architecture)
        ),
        latent_format=one_line(head["latent_format"]),
        prompts=prompts,
        next_sigmas=tensors.get("next_sigmas"),
        readouts=_readouts(tensors, "readouts"),
        text_readouts=_readouts(tensors, "text_readouts"),
        left_out={one_line(name): one_line(why) for name, why in head["left_out"].items()},
        settings={one_line(name): one_line(value) for name, value in head["settings"].items()},
        **{name: tensors[name] for name in _TENSORS},
    )


def _value(found: Any) -> Value:
    if found is None or isinstance(found, (str, int, float, bool)):
        return found
    raise TypeError("a prompt has a value that is neither text nor a number")


def _readouts(tensors: Mapping[str, torch.Tensor], group: str) -> dict[str, ReadOut]:
    parts = {part: dict(_beginning(tensors, f"{group}.{part}.")) for part in _PARTS}
    return {
        module: ReadOut(
            parts["examples"][module],
            parts["positions"][module],
            parts["counts"][module],
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


def _refuse(path: Path, problem: str) -> NoReturn:
    raise ProLoRAError(
        f"{path.name} is not a whole recording: {problem}. It was cut or damaged: copy it "
        "again, or record the LoRA again."
    )
