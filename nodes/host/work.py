"""What a job needs of ComfyUI while it runs: a device, memory, its LoRA loader, its log."""

import inspect
import logging
from collections.abc import Iterable
from typing import Any

import comfy.model_management
import comfy.sd
import torch

from ...prolora.algebra.devices import can_decompose
from ...prolora.errors import printable
from ...prolora.models.model import Model

# A projection of one module holds both weights in float32, and one in float64 with its Gram matrix,
# the eigenvectors and their workspace: about this many bytes for each element of a weight.
_BYTES_PER_ELEMENT = 64
_MOST = 1_400_000_000  # bytes beyond the loaded models, however much is free

log = logging.getLogger("ProLoRA")


def device() -> torch.device:
    """The host's device if it can decompose a weight (Apple's cannot), else the CPU."""
    chosen: torch.device = comfy.model_management.get_torch_device()
    return chosen if can_decompose(chosen) else torch.device("cpu")


def make_room(names: Iterable[str], model: Model) -> int:
    """Asks the host to free the memory that the largest of these modules needs.

    Returns:
        Bytes that a job may take of what is free then, for TransferSettings.memory.
    """
    refs = (model.resolve(name) for name in names)
    sizes = (torch.Size(model.weights.shape(ref.key)).numel() for ref in refs if ref is not None)
    largest = max(sizes, default=0)
    chosen = device()
    comfy.model_management.free_memory(largest * _BYTES_PER_ELEMENT, chosen)
    if chosen.type == "cpu":
        return 0
    return max(min(int(comfy.model_management.get_free_memory(chosen)), _MOST), 1)


def apply_lora(
    model: Any,
    clip: Any | None,
    lora: dict[str, torch.Tensor],
    strength_model: float,
    strength_clip: float,
) -> tuple[Any, Any]:
    """MODEL and CLIP, patched by the host's own LoRA loader; the inputs stay unchanged.

    Its own node hands the file's header over too, since 0.33.0: it is kept with the MODEL.
    """
    load = comfy.sd.load_lora_for_models
    takes_header = "lora_metadata" in inspect.signature(load).parameters
    header = {"lora_metadata": getattr(lora, "metadata", None)} if takes_header else {}
    patched: tuple[Any, Any] = load(model, clip, lora, strength_model, strength_clip, **header)
    return patched


def say(text: str, warning: bool = False) -> str:
    """Writes into the log what a node says.

    Returns:
        What the page is to show, as the node's `ui`: the same, which no name in it can steer.
    """
    shown = printable(text)
    log.log(logging.WARNING if warning else logging.INFO, "%s", shown)
    return shown
