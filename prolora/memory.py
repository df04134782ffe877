"""Whether there was no memory left, by whatever library says so."""

import errno

import torch

# In the errors of torch, CUDA and its libraries that have no type of their own.
_NO_MEMORY = ("out of memory", "alloc_failed", "can't allocate memory")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there was no memory left, on a device or on this machine."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):  # of any device, since 2.5
        return True
    if isinstance(error, OSError):  # as of a map without room
        return error.errno == errno.ENOMEM
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _NO_MEMORY)


def no_memory(error: BaseException) -> str:
    """A sentence of an error that is_out_of_memory; what to do about it comes after."""
    return f"The memory does not suffice ({first_line(error)})."


def first_line(error: BaseException) -> str:
    """What an error says, cut for a sentence."""
    return str(error).strip().split("\n")[0][:300].rstrip(".") or type(error).__name__
