"""Torch as it is where nobody has changed it: other packs set things for the whole process."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch


@contextmanager
def usual_torch() -> Iterator[None]:
    """Inside, torch makes float32 tensors on the CPU where nothing else is said, and no autocast.

    What was set is put back. Where nothing was, nothing is done, so that a model that
    torch.compile made need not be compiled again.
    """
    with ExitStack() as stack:
        dtype = torch.get_default_dtype()
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if torch.empty(0).device.type != "cpu":
            stack.enter_context(torch.device("cpu"))
        stack.enter_context(no_autocast())
        yield


@contextmanager
def no_autocast() -> Iterator[None]:
    """Inside, a product has the dtype of its factors, whatever the code around has asked for."""
    with ExitStack() as stack:
        for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield
