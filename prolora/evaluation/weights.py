"""The weights that a user names: where each is published, and how its file is read."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..errors import ProLoRAError, one_line
from ..files.safetensors import read_safetensors

_WRAPPED = ("state_dict", "model_state_dict")  # under which training scripts keep the weights
_PARALLEL = "module."  # what torch's data parallelism puts before every name
_SAFE = ".safetensors"


@dataclass(frozen=True)
class Weights:
    """Weights that a measure needs.

    Attributes:
        option: of the command line, without its dashes.
        folder: whether they are a folder of transformers, not a file.
        published: where, and what to take of it.
        licence: of the weights.
    """

    option: str
    folder: bool
    published: str
    licence: str

    @property
    def advice(self) -> str:
        kind = "FOLDER" if self.folder else "FILE"
        return f"--{self.option} {kind}: {self.published}; licence {self.licence}"


# As their publishers say it, in November 2026.
WEIGHTS = (
    Weights(
        "csd",
        False,
        "the checkpoint of tomg-group-umd/CSD-ViT-L on the hub, or, as safetensors, of "
        "yuxi-liu-wired/CSD",
        "CC BY 4.0 (the safetensors: MIT)",
    ),
    Weights("dino", True, "facebook/dinov2-base on the hub, or another DINOv2", "Apache 2.0"),
    Weights(
        "clip",
        True,
        "openai/clip-vit-large-patch14 on the hub, or another CLIP",
        "MIT, as OpenAI's code",
    ),
    Weights("hps", False, "HPS_v2.1_compressed.pt of xswu/HPSv2 on the hub", "Apache 2.0"),
    Weights(
        "lpips",
        False,
        "torchvision's AlexNet (alexnet-owt-7be5be79.pth) or VGG16 (vgg16-397923af.pth); what "
        "LPIPS adds to it is in the package lpips, BSD 2-Clause",
        "BSD 3-Clause, as torchvision's code",
    ),
)
BY_OPTION = {weights.option: weights for weights in WEIGHTS}


def check_weights(path: Path, weights: Weights) -> None:
    """Refuses what cannot be the weights, before they are loaded.

    Raises:
        ProLoRAError: nothing is there, or a file where a folder has to be, or a folder for a file.
    """
    if not path.exists():
        raise ProLoRAError(f"{path} does not exist. What is needed: {weights.advice}.")
    if path.is_dir() != weights.folder:
        found = "a folder" if path.is_dir() else "a file"
        raise ProLoRAError(f"{path} is {found}. What is needed: {weights.advice}.")


def refused(path: Path, option: str, why: object) -> ProLoRAError:
    """The error for weights that do not fit."""
    said = one_line(why).rstrip(".")
    return ProLoRAError(f"{path} does not fit: {said}. What is needed: {BY_OPTION[option].advice}.")


def tensors_of(path: Path, option: str) -> dict[str, Tensor]:
    """The tensors of a file, in float32, by the names in the file without a wrapper's.

    A pickle is read by torch with `weights_only`, which builds tensors and nothing else.

    Raises:
        ProLoRAError: the file cannot be read, or holds no tensors by names.
    """
    if path.suffix == _SAFE:
        found: object = read_safetensors(path)[0]
    else:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # what is no pickle may raise anything
            first = str(error).strip().split("\n")[0]
            raise refused(path, option, f"torch cannot read it as weights ({first})") from error
    for name in _WRAPPED:
        if isinstance(found, dict) and isinstance(found.get(name), dict):
            found = found[name]
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise refused(path, option, "it holds no tensors by names")
    tensors = {
        name.removeprefix(_PARALLEL): tensor.float()
        for name, tensor in found.items()
        if isinstance(tensor, Tensor)
    }
    if not tensors:
        raise refused(path, option, "it holds no tensors by names")
    return tensors


def part_of(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors below a prefix, without it."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
