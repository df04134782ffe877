"""CLIP (Radford et al., arXiv 2103.00020), by transformers: pictures and prompts in one space."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..libraries import library
from ..weights import refused
from .folder import load_folder

if TYPE_CHECKING:
    from PIL.Image import Image

OPTION = "clip"


class Clip:
    """The projected descriptors of CLIP; those of pictures and of prompts have a cosine.

    Raises:
        ProLoRAError: see load_folder.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        self._device = device
        model, self._processor = load_folder(folder, OPTION, "clip", "CLIPModel", device)
        self._model: Any = model
        try:
            self._tokenizer = library("transformers").AutoTokenizer.from_pretrained(
                folder, local_files_only=True
            )
        except Exception as error:  # as in load_folder
            raise refused(folder, OPTION, f"its tokenizer's files: {error}") from error

    @torch.inference_mode()
    def pictures(self, images: "Sequence[Image]") -> Tensor:
        pixels = self._processor(images=list(images), return_tensors="pt")["pixel_values"]
        seen = self._model.vision_model(pixel_values=pixels.to(self._device))
        described: Tensor = self._model.visual_projection(seen.pooler_output)
        return described.cpu()

    @torch.inference_mode()
    def prompts(self, texts: Sequence[str]) -> Tensor:
        longest = self._model.config.text_config.max_position_embeddings
        tokens = self._tokenizer(
            list(texts), padding=True, truncation=True, max_length=longest, return_tensors="pt"
        )
        read = self._model.text_model(**tokens.to(self._device))
        described: Tensor = self._model.text_projection(read.pooler_output)
        return described.cpu()
