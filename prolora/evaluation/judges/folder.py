"""A folder as transformers saves a model, checked before the library reads it, which forgives."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import ProLoRAError
from ...files.json_text import parse_json
from ..libraries import library
from ..weights import refused

_FILES = ("config.json", "preprocessor_config.json")


def load_folder(
    folder: Path, option: str, kind: str, model_class: str, device: torch.device
) -> tuple[nn.Module, Any]:
    """The model of a folder and its image processor, from local safetensors alone.

    Args:
        kind: that `model_type` in config.json has to be.
        model_class: of transformers.

    Raises:
        ProLoRAError: a file is missing or of another model, or transformers is.
    """
    for name in _FILES:
        if not (folder / name).is_file():
            raise refused(folder, option, f"it has no {name}")
    if not list(folder.glob("*.safetensors")):
        raise refused(folder, option, "it has no model.safetensors (pickles are not read)")
    found = _kind_of(folder, option)
    if found != kind:
        raise refused(folder, option, f"its config.json is of {found or 'no model'}, not of {kind}")
    transformers = library("transformers")
    transformers.logging.set_verbosity_error()
    local = {"local_files_only": True}
    try:
        model, info = getattr(transformers, model_class).from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **local
        )
        processor = transformers.AutoImageProcessor.from_pretrained(folder, **local)
    except ProLoRAError:
        raise
    except Exception as error:  # whatever the library raises is about the files; the user can act
        raise refused(folder, option, error) from error
    absent = [*info["missing_keys"], *info["mismatched_keys"]]
    if absent:
        raise refused(
            folder, option, f"{len(absent)} of its weights are missing, the first is {absent[0]}"
        )
    return model.to(device).eval(), processor


def _kind_of(folder: Path, option: str) -> str:
    try:
        read = parse_json((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise refused(folder, option, f"its config.json is no JSON ({error})") from error
    return str(read.get("model_type", "")) if isinstance(read, dict) else ""
