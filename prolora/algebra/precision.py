"""Numbers as they are kept: products of float32 in float32, on which the promised 1e-5 rests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """All that a tensor holds in memory, in one row of uint8; on its device."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@contextmanager
def full_float32() -> Iterator[None]:
    """Forbids TF32 and bfloat16 inside products of float32 matrices, and puts back what was set.

    A host or another pack may have allowed them for the whole process. TF32 is wrong by about 6e-4.
    """
    if not hasattr(torch.backends, "fp32_precision"):  # a torch before 2.9
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)
        return
    backends: list[Any] = [torch.backends.cuda, torch.backends.mkldnn]
    products = [backend.matmul for backend in backends]
    found = [product.fp32_precision for product in products]
    try:
        for product in products:
            product.fp32_precision = "ieee"
        yield
    finally:
        for product, precision in zip(products, found, strict=True):
            product.fp32_precision = precision
