"""A result as a LoRA file: what it is called, its dtype, and what it calls its modules."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..adapters import FILE_DTYPES, Part, lora_state_dict
from ..adapters.file import name_of
from ..models.model import Model
from ..naming.output_names import rename
from ..provenance.written import write_lora

_ENDINGS = (".safetensors", ".gguf")


class Result(Protocol):
    """What a job returns."""

    @property
    def contents(self) -> tuple[Part, ...]: ...

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
    """Writes the file of a result, whole or not at all.

    Args:
        model: that the LoRA is for.
        more: for its header.

    Returns:
        What is to be said of the modules' names.

    Raises:
        ProLoRAError: it cannot be written, or a value does not fit into the dtype.
    """
    named = rename(result.contents, model.key_map, model.architecture, form.naming)
    tensors = lora_state_dict(named.adapters, FILE_DTYPES[form.dtype], named.style)
    write_lora(tensors, path, {**result.metadata(), **(more or {})}, model.path)
    return named.notes


def lora_path(path: Path) -> Path:
    """The path of a LoRA to write: .safetensors is added where it is missing."""
    named = path.suffix.lower() == ".safetensors" or path.is_dir()  # which is refused
    return path if named else path.with_name(f"{path.name}.safetensors")


def moved_name(lora: Path, target: Path) -> str:
    """What a moved LoRA's file is called where nobody says it: "style for other.safetensors"."""
    names = _plain(name_of(lora)).replace("/", " "), _plain(target.absolute().name)
    return f"{' for '.join(names)}.safetensors"


def _plain(name: str) -> str:
    """A file's name without the ending of its format; a folder may have dots in its own."""
    ending = next((end for end in _ENDINGS if name.lower().endswith(end)), "")
    return name[: len(name) - len(ending)]
