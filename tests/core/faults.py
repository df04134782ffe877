"""Faults of memory, as torch and the system report them, at a chosen operation of torch."""

import errno
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# By whom; the words are those of torch 2.11.
NO_MEMORY = {
    "CUDA": torch.cuda.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 7.78 GiB."
    ),
    "torch on the CPU": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "Python": MemoryError(),
    "the system": OSError(errno.ENOMEM, "Cannot allocate memory"),
}


class FaultAt(TorchDispatchMode):
    """Raises at the operation of that number, from 0 on; counts those of this thread."""

    def __init__(self, number: float, error: BaseException) -> None:
        super().__init__()
        self.number, self.error, self.count = number, error, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count > self.number:
            self.number = float("inf")
            raise self.error
        return func(*args, **(kwargs or {}))


def operations_of(run: Any) -> int:
    """How many operations of torch there are in it."""
    with FaultAt(float("inf"), MemoryError()) as counted:
        run()
    return counted.count
