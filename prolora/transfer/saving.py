"""A result as a LoRA file, or a folder of PEFT: what it and its modules are called, its dtype."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch

from ..adapters import (
    FILE_DTYPES,
    AdapterFile,
    FullDifference,
    Part,
    VectorPatch,
    lora_state_dict,
)
from ..adapters.dense import DenseAdapter
from ..adapters.dora import DoraAdapter
from ..adapters.file import name_of
from ..adapters.peft_folder import folder_files, is_adapter_folder, moved_config
from ..errors import ProLoRAError
from ..files.atomic_write import write_text
from ..models.model import Model
from ..models.transformers_model import PEFT
from ..naming.output_names import Renamed, rename
from ..provenance.written import write_lora

_ENDINGS = (".safetensors", ".gguf")
_BESIDE = "PEFT wants an adapter_config.json beside it: r of the ranks, lora_alpha = r"


class Result(Protocol):
    """What a job returns."""

    @property
    def contents(self) -> tuple[Part, ...]: ...

    @property
    def file(self) -> AdapterFile | None:
        """The LoRA that it was made from, where it was made from one."""

    def metadata(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class FileForm:
    """How a LoRA is written.

    Attributes:
        dtype: of its tensors, a name in FILE_DTYPES.
        naming: of its modules, one of naming.output_names.CHOICES.
    """

    dtype: str = "fp16"
    naming: str = "auto"


def save_result(
    result: Result, model: Model, path: Path, form: FileForm, more: Mapping[str, str] | None = None
) -> tuple[str, ...]:
    """Writes the file of a result, whole or not at all; see lora_path for a folder of PEFT.

    Args:
        model: that the LoRA is for.
        more: for its header.

    Returns:
        What is to be said of the modules' names.

    Raises:
        ProLoRAError: it cannot be written, or a value does not fit into the dtype.
    """
    if not _is_file(path):
        return _save_folder(result, model, path, form, more or {})
    named = _named(result, model, form.naming)
    tensors = lora_state_dict(named.adapters, FILE_DTYPES[form.dtype], named.style)
    write_lora(tensors, path, {**result.metadata(), **(more or {})}, model.path)
    beside = [_BESIDE] if form.naming == "peft" else []
    return (*named.notes, *beside)


def _named(result: Result, model: Model, naming: str) -> Renamed:
    """The modules under the names of the file; as LoRAs, where its readers know nothing else."""

    def renamed(parts: Sequence[Part]) -> Renamed:
        return rename(parts, model.key_map, model.architecture, naming)

    named = renamed(result.contents)
    if naming not in ("peft", "diffusers") and named.style != "peft":
        return named
    loras = [_as_lora(part, model) for part in result.contents]
    count = sum(a is not b for a, b in zip(loras, result.contents, strict=True))
    if not count:
        return named
    named = renamed(loras)
    told = f"{count} modules became LoRAs, for {named.style} reads no other family"
    return replace(named, notes=(*named.notes, told))


def _as_lora(part: Part, model: Model) -> Part:
    """An adapter that has kept the tensors of another family, as docs/formats.md says."""
    direction = part.direction if isinstance(part, DoraAdapter) else part
    is_lora = not isinstance(direction, DenseAdapter)
    if is_lora or isinstance(direction, FullDifference) or isinstance(part, VectorPatch):
        return part
    place = model.resolve(part.name)
    assert place is not None  # it has the target's name
    weight = model.weight(place, torch.device("cpu"), torch.float32)
    return part.retarget(part.update(weight), 0, weight, weight).adapter


def _save_folder(
    result: Result, model: Model, folder: Path, form: FileForm, more: Mapping[str, str]
) -> tuple[str, ...]:
    """The same for PEFT. The configuration is written last: without it there is no adapter."""
    check_place(folder, form)
    named = _named(result, model, "peft")
    tensors = lora_state_dict(named.adapters, FILE_DTYPES[form.dtype], named.style)
    file, base = result.file, str(model.path or model.name)
    config = {} if file is None else file.config
    modules = [name for name in model.key_map if name.startswith(PEFT)]
    weights, config_path = folder_files(folder)
    write_lora(tensors, weights, {**result.metadata(), **more, "format": "pt"}, model.path)
    moved = moved_config(config, tensors, modules, base)
    write_text(config_path, json.dumps(moved, indent=2, sort_keys=True) + "\n")
    return named.notes


def check_place(path: Path, form: FileForm) -> None:
    """Refuses a folder of PEFT that would lie among other files, or have other names than PEFT's.

    Raises:
        ProLoRAError: it must be refused.
    """
    if _is_file(path):
        return
    if path.is_dir() and any(path.iterdir()) and not is_adapter_folder(path):
        raise ProLoRAError(
            f"{path} has other files in it, and is to be a folder of PEFT. Name a new folder."
        )
    if form.naming not in ("auto", "peft"):
        raise ProLoRAError(
            f"{path} is to be a folder of PEFT, which has PEFT's names and not those of naming "
            f"{form.naming}. Leave the naming out, or name a .safetensors file."
        )


def lora_path(path: Path, lora: Path | None = None) -> Path:
    """The path of a LoRA to write: .safetensors is added where it is missing.

    What was read from a folder of PEFT becomes such a folder, unless a .safetensors file is named.

    Args:
        lora: that is moved.
    """
    named = _is_file(path) or path.is_dir()  # which is refused, or a folder of PEFT
    if named or (lora is not None and lora.is_dir()):
        return path
    return path.with_name(f"{path.name}{_ENDINGS[0]}")


def files_written(path: Path, lora: Path | None = None) -> list[Path]:
    """The files of a LoRA to write; see lora_path."""
    is_folder = lora is not None and lora.is_dir() and not _is_file(path)
    return folder_files(path) if is_folder else [path]


def moved_name(lora: Path, target: Path) -> str:
    """What a moved LoRA is called where nobody says it: "style for other.safetensors"."""
    name = lora.absolute().name if lora.is_dir() else _plain(name_of(lora)).replace("/", " ")
    ending = "" if lora.is_dir() else _ENDINGS[0]
    return f"{name} for {_plain(target.absolute().name)}{ending}"


def _is_file(path: Path) -> bool:
    return path.suffix.lower() == _ENDINGS[0]


def _plain(name: str) -> str:
    """A file's name without the ending of its format; a folder may have dots in its own."""
    ending = next((end for end in _ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]
