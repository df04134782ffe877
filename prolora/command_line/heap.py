"""Memory of weights that are done with goes back to the system, in a program of our own."""

import ctypes
import sys

_MMAP_THRESHOLD = -3  # glibc's M_MMAP_THRESHOLD
_LARGE = 4 << 20  # bytes


def give_large_blocks_back() -> None:
    """Has glibc map every large block by itself, so that it goes when it is freed.

    Else glibc learns from the first large tensors to keep blocks of up to 32 MB in its heap, of
    which every thread has its own: a transfer of SDXL's modules took a hundred MB more.
    """
    if sys.platform == "linux":
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # which musl does not have
        if mallopt is not None:
            mallopt(_MMAP_THRESHOLD, _LARGE)
