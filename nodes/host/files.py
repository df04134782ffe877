"""Files in ComfyUI's folders: names, paths, and the content of a LoRA file."""

import os
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import folder_paths

from ...prolora.adapters import AdapterFile, name_of, parse_adapter_file, read_peft_config
from ...prolora.errors import ProLoRAError, one_line
from ...prolora.files.new_names import NameTaken
from ...prolora.files.safetensors import read_safetensors
from ...prolora.recording.file import SUFFIX

# A host from June 2024 keeps diffusion models in "unet"; later ones renamed the folder.
_MODEL_FOLDERS = ("checkpoints", "diffusion_models", "unet")
# The subfolder of the output folder that Save Recording writes to.
RECORDINGS = "recordings"
# The subfolder of the output folder that the host takes for one of LoRAs, and ours of the cache.
LORAS, CACHE = "loras", "prolora_moved"
# Bytes of a part of a filename_prefix: file systems take 255, of which number and ending have some.
_LONGEST, _DEEPEST = 220, 30
# Categories of letters that are in no name: of control, halves of letters, ends of lines.
_NO_LETTERS = ("Cc", "Cs", "Zl", "Zp")
_TURN = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"  # the direction of what follows
# What a recording's name in the list begins with.
_OUTPUT, _LORAS = "output/", "loras/"


def lora_names() -> list[str]:
    """The LoRA files that the host lists, without recordings and what is in the cache."""
    cache_folder()
    names = folder_paths.get_filename_list("loras")
    return [n for n in names if not n.endswith(SUFFIX) and Path(n).parts[0] != CACHE]


def cache_folder() -> Path:
    """The folder of moved LoRAs, whose files every LoRA loader of the host finds by cached_name.

    It lies in the output folder's own folder of LoRAs. Hosts since 2025 list that; an older one is
    told of it here.
    """
    loras = Path(folder_paths.get_output_directory()) / LORAS
    if loras not in map(Path, folder_paths.get_folder_paths("loras")):
        folder_paths.add_model_folder_path("loras", str(loras))
    return loras / CACHE


def cached_name(path: Path) -> str:
    """The name of a file of the cache in the loras folder."""
    return str(Path(CACHE, path.name))


def recording_for(lora: Path) -> Path:
    """Where the recording of a LoRA is looked for: NAME.recording.safetensors beside it."""
    return lora.with_name(f"{lora.stem}{SUFFIX}")


def recording_beside(lora: Path) -> Path | None:
    """That file; None where there is none."""
    path = recording_for(lora)
    return path if os.path.isfile(path) else None  # noqa: PTH113 (the name may be too long)


def recording_names() -> list[str]:
    """The recordings in the output folder's subfolder for them, then those in the loras folder.

    The host asks for this list whenever the page loads, so the rest of the output folder, which may
    be large, is not searched.
    """
    output = Path(folder_paths.get_output_directory())
    found = (output / RECORDINGS).rglob(f"*{SUFFIX}")
    saved = (path.relative_to(output).as_posix() for path in found)
    listed = (name for name in folder_paths.get_filename_list("loras") if name.endswith(SUFFIX))
    return [*(f"{_OUTPUT}{name}" for name in sorted(saved)), *(f"{_LORAS}{n}" for n in listed)]


def recording_path(name: str) -> Path:
    """The path of a recording by its name in the list.

    Raises:
        ProLoRAError: the file is not there, or the name leads out of both folders.
    """
    if name.startswith(_LORAS):
        return _find(name.removeprefix(_LORAS), ["loras"])
    output = Path(folder_paths.get_output_directory()).resolve()
    path = output / name.removeprefix(_OUTPUT)
    # os.path.isfile takes every text; what does not lead to a file, resolve may not take.
    if not os.path.isfile(path) or not path.resolve().is_relative_to(output):  # noqa: PTH113
        raise ProLoRAError(
            f"The recording {name} is not in ComfyUI's {_OUTPUT}{RECORDINGS} or loras folder. Was "
            "it moved or renamed? Choose a file from the list (press R to refresh it)."
        )
    return path


def model_names() -> list[str]:
    """The checkpoints and diffusion models that the host lists, by the names that it shows."""
    names = (name for folder in _model_folders() for name in folder_paths.get_filename_list(folder))
    return list(dict.fromkeys(names))


def lora_path(name: str) -> Path:
    """The path of a LoRA file by its name in the list.

    Raises:
        ProLoRAError: the file is not there.
    """
    return _find(name, ["loras"])


def model_path(name: str) -> Path:
    """The path of a checkpoint or diffusion model by its name in the list.

    Raises:
        ProLoRAError: the file is not there.
    """
    return _find(name, _model_folders())


def model_paths() -> dict[str, Path]:
    """Their paths, by the names in the list, without what is a link to nothing."""
    folders = _model_folders()
    found = {
        name: folder_paths.get_full_path(folder, name)
        for folder in reversed(folders)
        for name in folder_paths.get_filename_list(folder)
    }
    return {name: Path(path) for name, path in found.items() if path is not None}


def output_path(filename_prefix: str, suffix: str = ".safetensors") -> Path:
    """The next free file for a prefix in the host's output folder, numbered like saved images.

    Args:
        suffix: of the file, after its number.

    Raises:
        ProLoRAError: no file can be called so, the prefix leads out of the output folder, or its
            folder cannot be made.
    """
    _refuse_name(filename_prefix)
    output = Path(folder_paths.get_output_directory()).resolve()
    if not (output / filename_prefix).resolve().is_relative_to(output):
        raise ProLoRAError(
            f"The filename_prefix {filename_prefix!r} leads out of ComfyUI's output folder. "
            "Nothing was written. Use a name or a subfolder, like loras/my_lora."
        )
    prefix = os.path.normpath(filename_prefix) if filename_prefix else ""  # else it counts wrongly
    try:
        folder, name, counter, *_ = folder_paths.get_save_image_path(prefix, str(output))
    except OSError as error:
        raise ProLoRAError(
            f"The folder of {filename_prefix!r} cannot be made in {output}: {error}. Nothing was "
            "written. May this folder be written to?"
        ) from error
    return Path(folder) / f"{name}_{counter:05}_{suffix}"


def write_new(
    filename_prefix: str, write: Callable[[Path], None], suffix: str = ".safetensors"
) -> Path:
    """Writes a file at output_path, which is free also where another ComfyUI saves meanwhile.

    Args:
        write: writes a file whole or not at all, and over none that is there.

    Raises:
        ProLoRAError: see output_path; or it cannot be written.
    """
    taken = None
    while True:
        path = output_path(filename_prefix, suffix)
        try:
            write(path)
        except NameTaken:
            if path == taken:  # the host does not count it
                raise
            taken = path
        else:
            return path


def _refuse_name(prefix: str) -> None:
    if any(unicodedata.category(c) in _NO_LETTERS or c in _TURN for c in prefix):
        why = "holds letters that the name of a file must not have"
    elif len(Path(prefix).parts) > _DEEPEST:
        why = f"has more than {_DEEPEST} folders"
    elif any(len(part.encode()) > _LONGEST for part in Path(prefix).parts):
        why = f"has a part of more than {_LONGEST} bytes"
    else:
        return
    raise ProLoRAError(
        f"The filename_prefix {one_line(repr(prefix))} {why}. Nothing was written. Use a name or a "
        "subfolder, like loras/my_lora."
    )


def saved_to(path: Path) -> str:
    """Says where a file was saved: its folder, from the host's output folder on, and its name."""
    output = Path(folder_paths.get_output_directory()).resolve()
    return f"saved to {_OUTPUT}{path.resolve().relative_to(output).as_posix()}"


def read_lora(path: Path) -> AdapterFile:
    """Reads a LoRA file, under the keys that the host's own loader gives it.

    Raises:
        ProLoRAError: the file is damaged, not safetensors, or not an adapter that can be read.
    """
    tensors, metadata = read_safetensors(path)
    with suppress(ImportError):  # a host from June 2024 renames nothing
        from comfy.lora_convert import convert_lora

        tensors = convert_lora(tensors)
    return parse_adapter_file(tensors, name_of(path), metadata, read_peft_config(path))


def _model_folders() -> list[str]:
    known = [folder for folder in _MODEL_FOLDERS if folder in folder_paths.folder_names_and_paths]
    return known[:2]  # a host that has both diffusion_models and unet means one folder by them


def _find(name: str, folders: list[str]) -> Path:
    for folder in folders:
        path = folder_paths.get_full_path(folder, name)
        if path is not None:
            return Path(path)
    raise ProLoRAError(
        f"{name} is not in ComfyUI's {' or '.join(folders)} folder. Was it moved or renamed? "
        "Choose a file from the list (press R to refresh it)."
    )
