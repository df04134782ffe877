"""DINOv2 (Oquab et al., arXiv 2304.07193), by transformers: what is in a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .folder import load_folder

if TYPE_CHECKING:
    from PIL.Image import Image

OPTION = "dino"


class Dino:
    """The class token after the last norm, as DINOv2's own retrieval takes it.

    Raises:
        ProLoRAError: see load_folder.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._device = device
        model, self._processor = load_folder(folder, OPTION, "dinov2", "Dinov2Model", device)
        self._model: Any = model

    @torch.inference_mode()
    def pictures(self, images: "Sequence[Image]") -> Tensor:
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        described: Tensor = self._model(pixel_values=pixels.to(self._device)).pooler_output
        return described.cpu()
