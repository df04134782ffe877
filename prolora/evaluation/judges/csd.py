"""CSD, contrastive style descriptors (Somepalli et al., arXiv 2404.01292): how a picture is drawn.

OpenAI's CLIP ViT-L/14, trained on, whose projection is replaced by two heads without biases, one
for style and one for content. open_clip's tower has the same names for all but the head.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..libraries import library
from ..weights import part_of, refused, tensors_of
from .vision import vision_sizes

if TYPE_CHECKING:
    from PIL.Image import Image

OPTION = "csd"
_TOWER, _HEAD = "backbone.", "last_layer_style"


class Csd:
    """The style descriptor, of length 1.

    Raises:
        ProLoRAError: the file is no checkpoint of CSD, or open_clip is not installed.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        tensors = tensors_of(path, OPTION)
        if _HEAD not in tensors:
            raise refused(path, OPTION, f"it has no {_HEAD}, the head of CSD")
        tower = part_of(tensors, _TOWER)
        sizes = vision_sizes(tower, path, OPTION)
        clip, parts = library("open_clip"), library("open_clip.transformer")
        network = parts.VisionTransformer(
            image_size=sizes.image,
            patch_size=sizes.patch,
            width=sizes.width,
            layers=sizes.layers,
            heads=sizes.heads,
            mlp_ratio=4.0,
            output_dim=tensors[_HEAD].shape[1],
            act_layer=parts.QuickGELU,  # as OpenAI's CLIP was trained
        )
        try:
            network.load_state_dict({**tower, "proj": tensors[_HEAD]})
        except RuntimeError as error:
            raise refused(path, OPTION, error) from error
        self._device = device
        self._network: Any = network.to(device).eval()
        self._prepared = clip.image_transform(sizes.image, is_train=False)

    @torch.inference_mode()
    def pictures(self, images: "Sequence[Image]") -> Tensor:
        pixels = torch.stack([self._prepared(image) for image in images])
        described: Tensor = self._network(pixels.to(self._device))
        return torch.nn.functional.normalize(described, dim=1).cpu()
