"""What a device is able to do."""

import torch

from ..errors import ProLoRAError
from ..memory import is_out_of_memory


def has_float64(device: torch.device) -> bool:
    """Whether a device is there and holds float64, as leading_subspace needs; Apple's does not.

    Raises:
        RuntimeError: there is no memory for so much as an answer.
    """
    try:
        torch.empty(0, dtype=torch.float64, device=device)
    except (RuntimeError, TypeError, NotImplementedError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


def check_float64(device: torch.device, needed: str) -> None:
    """Refuses a device that a job cannot run on.

    Args:
        needed: what needs float64, with its verb.

    Raises:
        ProLoRAError: the device is not there, or has no float64.
    """
    if not has_float64(device):
        raise ProLoRAError(
            f"The device {device} is not there, or cannot compute in float64 as {needed} it. "
            "Choose cuda or cpu."
        )


def can_decompose(device: torch.device) -> bool:
    """Whether a device is there and computes in float64, as leading_subspace does."""
    try:
        float(torch.linalg.eigh(torch.eye(2, dtype=torch.float64, device=device)).eigenvalues[0])
    except (RuntimeError, TypeError, NotImplementedError, AssertionError, ImportError):
        return False
    return True


def sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor on a device.

    To a GPU it goes through pinned memory, at the full rate, on this thread's stream alone.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
