"""Pictures for the graph and for the page."""

import uuid
from pathlib import Path
from typing import Any

import folder_paths
import numpy as np
import torch

from ...prolora.files.atomic_write import atomic_write


def as_image(picture: Any) -> torch.Tensor:
    """A picture of Pillow as an IMAGE: 1 x height x width x 3, from 0 to 1."""
    return torch.from_numpy(np.asarray(picture, dtype=np.float32) / 255)[None]


def preview(picture: Any) -> dict[str, str]:
    """Puts a picture into the host's temporary folder; what `ui.images` of a node calls it.

    Raises:
        ProLoRAError: it cannot be written.
    """
    name = f"ProLoRA_{uuid.uuid4().hex}.png"
    with atomic_write(Path(folder_paths.get_temp_directory()) / name) as file:
        picture.save(file, format="PNG", compress_level=1)
    return {"filename": name, "subfolder": "", "type": "temp"}
