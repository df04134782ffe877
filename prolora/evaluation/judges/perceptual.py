"""LPIPS (Zhang et al., CVPR 2018, arXiv 1801.03924), by its authors' package: how far two pictures
are for the eye.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..libraries import library
from ..weights import refused, tensors_of

if TYPE_CHECKING:
    from PIL.Image import Image

OPTION = "lpips"
SIDE = 256  # pixels that every picture is brought to: a pair has to be of one size
_CLASSIFIER = "classifier."
# The convolutions of the trunk, which tell whose weights a file has, and lpips' name of the trunk.
_TRUNKS = {(64, 192, 384, 256, 256): "alex", (64, 64, 128, 128, 256, 256, 256) + 6 * (512,): "vgg"}


class Perceptual:
    """LPIPS 0.1. Its weights lie in the package; those of its trunk are torchvision's.

    Raises:
        ProLoRAError: the file has no trunk that LPIPS knows, or lpips is not installed.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        tensors = tensors_of(path, OPTION)
        trunk = {n: t for n, t in tensors.items() if not n.startswith(_CLASSIFIER)}
        net = _TRUNKS.get(tuple(len(t) for t in trunk.values() if t.ndim == 4))
        if net is None:
            raise refused(path, OPTION, "it is neither torchvision's AlexNet nor its VGG16")
        lpips = library("lpips")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how lpips asks torchvision for a trunk
            network = lpips.LPIPS(pretrained=False, pnet_rand=True, net=net, verbose=False)
        own = Path(lpips.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
        heads = torch.load(own, map_location="cpu", weights_only=True)
        try:
            network.load_state_dict({**network.state_dict(), **heads})
            # slice1.0.weight of lpips is features.0.weight of torchvision.
            network.net.load_state_dict(
                {
                    name: trunk[f"features.{name.split('.', 1)[1]}"]
                    for name in network.net.state_dict()
                }
            )
        except (KeyError, RuntimeError) as error:
            raise refused(path, OPTION, error) from error
        self._device = device
        self._network: Any = network.to(device).eval()

    def pictures(self, images: "Sequence[Image]") -> Tensor:
        """Takes the middle square of each: n x 3 x SIDE x SIDE, uint8."""
        return torch.stack([_square(image) for image in images])

    @torch.inference_mode()
    def distances(self, first: Tensor, second: Tensor) -> Tensor:
        left, right = (x.to(self._device).float() / 127.5 - 1 for x in (first, second))
        apart: Tensor = self._network(left, right)
        return apart.flatten().cpu()


def _square(image: "Image") -> Tensor:
    from PIL import Image, ImageOps

    fitted = ImageOps.fit(image, (SIDE, SIDE), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(fitted)).permute(2, 0, 1)
