"""The libraries that own the judges' networks: imported when a judge is loaded, and offline."""

import importlib
import os
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..errors import ProLoRAError

# Read by huggingface-hub and transformers when they are imported: nothing is fetched.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
# Module -> the package that brings it.
PACKAGES = {"lpips": "lpips", "open_clip": "open_clip_torch", "transformers": "transformers"}


def library(module: str) -> Any:
    """A module of a library of the extra `evaluate`.

    Raises:
        ProLoRAError: the library is not installed.
    """
    os.environ.update(_OFFLINE)
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PACKAGES[module.split(".")[0]]
        raise ProLoRAError(
            f"This measure needs {package}, which cannot be imported ({error}): "
            f'pip install "prolora[evaluate]", or pip install {package}'
        ) from error


def versions() -> dict[str, str]:
    """The versions of the libraries that are installed."""
    found = {}
    for package in ("torch", "Pillow", *sorted(PACKAGES.values())):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
