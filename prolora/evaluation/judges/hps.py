"""HPSv2.1 (Wu et al., arXiv 2306.09341): what people prefer of pictures of one prompt.

A CLIP ViT-H/14 of open_clip, trained on people's choices; the score is the cosine of picture and
prompt.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..libraries import library
from ..weights import part_of, refused, tensors_of
from .vision import heads_of, layers_of, vision_sizes

if TYPE_CHECKING:
    from PIL.Image import Image

OPTION = "hps"
_TOWER = "visual."
_NEEDED = ("token_embedding.weight", "positional_embedding", "text_projection")


class Hps:
    """The descriptors of pictures and prompts, whose cosine is the score.

    Raises:
        ProLoRAError: the file is no checkpoint of HPSv2, or open_clip is not installed.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        tensors = tensors_of(path, OPTION)
        for name in _NEEDED:
            if name not in tensors:
                raise refused(path, OPTION, f"it has no {name} of a CLIP of open_clip")
        network = _network(tensors, path)
        try:
            network.load_state_dict(tensors)
        except RuntimeError as error:
            raise refused(path, OPTION, error) from error
        clip = library("open_clip")
        self._device = device
        self._network = network.to(device).eval()
        # As HPSv2's own code shows it pictures, whole and on black; but it scales in float, not in
        # 8 bits.
        self._prepared = clip.image_transform(
            network.visual.image_size, is_train=False, resize_mode="longest"
        )
        self._tokens = clip.SimpleTokenizer(context_length=network.context_length)

    @torch.inference_mode()
    def pictures(self, images: "Sequence[Image]") -> Tensor:
        pixels = torch.stack([self._prepared(image) for image in images])
        described: Tensor = self._network.encode_image(pixels.to(self._device))
        return described.cpu()

    @torch.inference_mode()
    def prompts(self, texts: Sequence[str]) -> Tensor:
        described: Tensor = self._network.encode_text(self._tokens(list(texts)).to(self._device))
        return described.cpu()


def _network(tensors: Mapping[str, Tensor], path: Path) -> Any:
    """A CLIP of open_clip with the sizes of the weights."""
    clip = library("open_clip")
    sizes = vision_sizes(part_of(dict(tensors), _TOWER), path, OPTION)
    words, width = tensors["token_embedding.weight"].shape
    return clip.CLIP(
        embed_dim=tensors["text_projection"].shape[1],
        vision_cfg=clip.CLIPVisionCfg(
            layers=sizes.layers,
            width=sizes.width,
            head_width=sizes.width // sizes.heads,
            patch_size=sizes.patch,
            image_size=sizes.image,
        ),
        text_cfg=clip.CLIPTextCfg(
            context_length=len(tensors["positional_embedding"]),
            vocab_size=words,
            width=width,
            heads=heads_of(width, path, OPTION),
            layers=layers_of(tensors),
        ),
    )
