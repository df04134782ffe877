"""Numbers as they are kept: products of float32 in float32, on which the promised 1e-5 rests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..surroundings import no_autocast


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """All that a tensor holds in memory, in one row of uint8; on its device."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8)


@contextmanager
def full_float32() -> Iterator[None]:
    """Forbids TF32, bfloat16 and autocast inside products of float32 matrices.

    A host or another pack may have allowed them for the whole process, which is put back. TF32 is
    wrong by about 6e-4.
    """
    # A torch from 2.9 on has a setting for each backend too. Setting one of them alone would have
    # whoever reads the common one, as torch.compile does, meet an error.
    newer = hasattr(torch.backends, "fp32_precision")
    backends: list[Any] = [torch.backends.cuda, torch.backends.mkldnn] if newer else []
    products = [backend.matmul for backend in backends]
    found = [product.fp32_precision for product in products]
    common = _common_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with no_autocast():
            yield
    finally:
        torch.set_float32_matmul_precision(common)
        for product, precision in zip(products, found, strict=True):
            _put_back(product, precision)


def _common_precision() -> str:
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody has set a backend alone, so that nobody can read it
        return "highest"


def _put_back(product: Any, precision: str) -> None:
    """As it is inherited from the whole backend, where that gives the same."""
    product.fp32_precision = "none"
    if product.fp32_precision != precision:
        product.fp32_precision = precision
